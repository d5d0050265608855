"""How the loading warp fills a tile of keys, or of values, from pages that hold no whole tiles.

A box is what one TMA copy takes of a page: `page_keys` rows. Several fill a tile, each of a page
that the table names, one below the other: the swizzle repeats every 8 rows. The tile's one barrier
counts their bytes. Boxes past the last key may have no page; the last one that has comes again in
their place, so that as many bytes come: nobody sees these rows, and their values are zeroed.

One thread issues them all. The lanes of a warp cannot, each its own: a copy takes its operands from
registers that a warp has once, so a copy by several lanes is compiled to a loop over them.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from genrec_kernels.cutlass.block_sizes import WARP
from genrec_kernels.cutlass.load_warp import tma_views
from genrec_kernels.cutlass.parameters import SWIZZLE_BYTES

#: That fill a tile without a loop. Each takes 8 of the 63 registers that a warp has once; 16 (at a
#: width of 256) needed nearly all others that the loading warp has, and spilled in fp16.
MOST_COPIES = 8


def boxes_of_tile(variant):
    """How many fill a tile."""
    return variant.keys // variant.page_keys


def copies_of_box(variant):
    """How many bring its columns: one brings as many as the swizzle is wide."""
    return variant.width * variant.element_bytes // SWIZZLE_BYTES


def steps_ahead(variant):
    """For how many steps the lanes of a warp find boxes, see `find_boxes`."""
    return WARP // boxes_of_tile(variant) - 1


def box_views(variant, loads, shared):
    """What `copy_boxes` takes of keys, and of values; boxes of a page.

    Args:
        variant: an `AttentionVariant`.
        loads, shared: see `load_paged_tiles`.
    """
    (k_copy, k_tma), (v_copy, v_tma) = loads.k, loads.v
    rows, width = variant.page_keys, variant.width
    gk = cute.local_tile(k_tma, (rows, width), (None, 0, None, None))
    gv = cute.local_tile(v_tma, (width, rows), (0, None, None, None))
    sk = cute.local_tile(shared.k, (rows, width), (None, 0, None))
    sv = cute.local_tile(shared.v, (width, rows), (0, None, None))
    return (
        (k_copy, *tma_views(k_copy, sk, gk)),
        (v_copy, *tma_views(v_copy, sv, gv)),
        Int32(cute.size(gk, mode=[2])),
    )


@cute.jit
def find_boxes(
    variant: cutlass.Constexpr, table, request, step, begin, end, num_keys, boxes_per_page
):
    """The page of this lane's box, and its place there.

    The first lanes have the boxes of the tile before that of `step`, as its values come after the
    keys of the step; the next lanes those of the step, then of the step after it, and so on. They
    do for `steps_ahead` steps, with `next_boxes` between them.
    """
    lane = cute.arch.lane_idx()
    boxes = boxes_of_tile(variant)
    tile = cutlass.min(cutlass.max(end - step - lane // boxes, begin), end - 1)
    box = cutlass.min(tile * boxes + lane % boxes, (num_keys - 1) // variant.page_keys)
    return Int32(table[request, box // boxes_per_page]), box % boxes_per_page


@cute.jit
def next_boxes(variant: cutlass.Constexpr, pages, places):
    """What `find_boxes` found, a step later: the lanes of a tile are always the same."""
    lane = cute.arch.lane_idx() + boxes_of_tile(variant)
    return cute.arch.shuffle_sync(pages, lane), cute.arch.shuffle_sync(places, lane)


@cute.jit
def copy_boxes(
    variant: cutlass.Constexpr, view, pages, places, tile: cutlass.Constexpr, head, stage
):
    """Fill a stage of a ring with a tile.

    Args:
        view: the TMA copy, and boxes in shared memory, by number in the tile and stage, and in
            pages, by place in the page, head and page.
        pages, places: of the lanes' boxes, see `find_boxes`.
        tile: 0 for the tile before that of the step, 1 for that of the step.
    """
    copy, target, source = view
    boxes = boxes_of_tile(variant)
    # In a loop each box waits for the shuffles and copies of the one before it.
    unroll = boxes if boxes * copies_of_box(variant) <= MOST_COPIES else 1
    for i in cutlass.range(boxes, unroll=unroll):
        page = cute.arch.shuffle_sync(pages, tile * boxes + i)
        place = cute.arch.shuffle_sync(places, tile * boxes + i)
        cute.copy(
            copy,
            source[None, place, head, page],
            target[None, i, stage.index],
            tma_bar_ptr=stage.barrier,
        )
