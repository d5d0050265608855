"""What the loading warp of a block does where keys and values are in pages."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr
from cutlass.cute.nvgpu import cpasync

from genrec_kernels.cutlass.block_sizes import WARP
from genrec_kernels.cutlass.key_parts import tiles_of_part
from genrec_kernels.cutlass.key_tiles import limits_of_rows
from genrec_kernels.cutlass.load_warp import tma_views
from genrec_kernels.cutlass.page_boxes import (
    box_views,
    copy_boxes,
    find_boxes,
    next_boxes,
    steps_ahead,
)
from genrec_kernels.cutlass.work import find_tile, tiles_of_lane


@cute.jit
def load_paged_tiles(variant: cutlass.Constexpr, loads, shared, tensors, scalars, rings):
    """Claim tiles, tell the computing warps, bring their rows, and keys and values page by page.

    Args:
        variant: an `AttentionVariant`.
        loads: has `q`, `k` and `v`, each a TMA copy and the tensor that it reads: [R, D, H],
            [S, D, H, P] and [D, S, H, P].
        shared, tensors, scalars, rings: see `PagedHSTUSm90.kernel`.
    """
    (q_copy, q_tma), (k_copy, k_tma), (v_copy, v_tma) = loads.q, loads.k, loads.v
    offsets, limits, table = tensors.offsets, tensors.limits, tensors.page_table
    # The DSL takes whose element is written in a branch for what the branch gives.
    work, claimed = shared.work, tensors.claimed
    rows, keys, width = variant.rows, variant.keys, variant.width
    splits = scalars.splits
    parts = Int32(q_tma.shape[2]) * splits
    lane = cute.arch.lane_idx()
    blocks = cute.arch.grid_dim()[0]
    q_put = rings.q.make_producer()
    k_put = rings.k.make_producer()
    v_put = rings.v.make_producer()
    work_put = rings.work.make_producer()
    for copy in (q_copy, k_copy, v_copy):
        cpasync.prefetch_descriptor(copy)
    if const_expr(variant.page_keys < keys):
        k_boxes, v_boxes, boxes_per_page = box_views(variant, loads, shared)
        ahead = steps_ahead(variant)
    else:
        gk = cute.local_tile(k_tma, (keys, width), (None, 0, None, None))
        gv = cute.local_tile(v_tma, (width, keys), (0, None, None, None))
        tks, tkg = tma_views(k_copy, shared.k, gk)
        tvs, tvg = tma_views(v_copy, shared.v, gv)
        tiles_per_page = Int32(cute.size(gk, mode=[2]))
    if const_expr(variant.same_bias):
        bias_copy = cute.make_copy_atom(
            cpasync.CopyBulkG2SOp(),
            shared.bias.element_type,
            num_bits_per_copy=keys * shared.bias.element_type.width,
        )

    first_request = Int32(0)
    tiles = tiles_of_lane(offsets, first_request, scalars.group, rows)
    level = cute.arch.warp_redux_sync(tiles, "max") - 1
    passed = Int32(0)
    index = Int32(cute.arch.block_idx()[0])
    claim = Int32(-1)
    running = Boolean(True)
    while running:
        request, part, row_tile, first_request, tiles, level, passed = find_tile(
            index, offsets, parts, scalars.group, first_request, tiles, level, passed, rows
        )
        running = request >= 0
        head, split = part // splits, part % splits
        start = Int32(-1)
        num_rows = Int32(0)
        first_row = row_tile * rows
        num_keys, begin, end = Int32(0), Int32(0), Int32(0)
        if running:
            start = Int32(offsets[request])
            num_rows = Int32(offsets[request + 1]) - start
            _, num_keys = limits_of_rows(limits, start, first_row, num_rows, None, rows)
            begin, end = tiles_of_part(num_keys, split, splits, keys)
        slot = work_put.acquire_and_advance()
        if lane == 0:
            words = (start, num_rows, num_keys, head, first_row, split, begin, end)
            for i in cutlass.range_constexpr(len(words)):
                work[i, slot.index] = words[i]
            slot.commit()
        if running:
            q_rows = cute.domain_offset((start + first_row, 0), q_tma[None, None, head])
            gq = cute.local_tile(q_rows, (rows, width), (0, 0))
            tqs, tqg = tma_views(q_copy, shared.q, gq)
            place = q_put.acquire_and_advance()
            cute.copy(q_copy, tqg, tqs[None, place.index], tma_bar_ptr=place.barrier)

            if const_expr(variant.page_keys < keys):
                pages, places = Int32(0), Int32(0)
                for step in cutlass.range(end - begin, unroll=1):
                    tile = end - 1 - step
                    if step % ahead == 0:
                        pages, places = find_boxes(
                            *(variant, table, request, step, begin, end, num_keys, boxes_per_page)
                        )
                    else:
                        pages, places = next_boxes(variant, pages, places)
                    place = k_put.acquire_and_advance()
                    copy_boxes(variant, k_boxes, pages, places, 1, head, place)
                    if const_expr(variant.same_bias):
                        _load_bias(bias_copy, tensors.bias, shared.bias, request, tile, place, keys)
                    if step > 0:
                        place = v_put.acquire_and_advance()
                        copy_boxes(variant, v_boxes, pages, places, 0, head, place)
                if begin < end:
                    place = v_put.acquire_and_advance()
                    copy_boxes(variant, v_boxes, pages, places, 1, head, place)
            else:
                # Numbers of pages, one a lane, are loaded for as many tiles as a warp has lanes.
                pages = Int32(0)
                previous_page, previous_place = Int32(0), Int32(0)
                for step in cutlass.range(end - begin, unroll=1):
                    if step % WARP == 0:
                        lane_tile = cutlass.max(end - 1 - step - lane, begin)
                        pages = Int32(table[request, lane_tile // tiles_per_page])
                    page = cute.arch.shuffle_sync(pages, step % WARP)
                    tile = end - 1 - step
                    page_place = tile % tiles_per_page
                    place = k_put.acquire_and_advance()
                    cute.copy(
                        k_copy,
                        tkg[None, page_place, head, page],
                        tks[None, place.index],
                        tma_bar_ptr=place.barrier,
                    )
                    if const_expr(variant.same_bias):
                        _load_bias(bias_copy, tensors.bias, shared.bias, request, tile, place, keys)
                    if step > 0:
                        place = v_put.acquire_and_advance()
                        cute.copy(
                            v_copy,
                            tvg[None, previous_place, head, previous_page],
                            tvs[None, place.index],
                            tma_bar_ptr=place.barrier,
                        )
                    previous_page, previous_place = page, page_place
                if begin < end:
                    place = v_put.acquire_and_advance()
                    cute.copy(
                        v_copy,
                        tvg[None, previous_place, head, previous_page],
                        tvs[None, place.index],
                        tma_bar_ptr=place.barrier,
                    )
            if lane == 0:
                claim = cute.arch.atomic_add(claimed.iterator.llvm_ptr, Int32(1))
            claim = cute.arch.shuffle_sync(claim, 0)
            index = claim + blocks
    # Every block that had work claims once in vain, so there are as many claims as tiles.
    if lane == 0 and claim == passed - 1:
        claimed[0] = Int32(0)
    # A block must not end while others may still signal its barriers.
    q_put.tail()
    k_put.tail()
    v_put.tail()


@cute.jit
def _load_bias(copy, rows, tile_bias, request, tile, place, keys: cutlass.Constexpr[int]):
    """A tile's bias, which comes with its keys."""
    line = rows[Int64(request), None]
    if cute.arch.lane_idx() == 0:
        cute.copy(
            copy,
            cute.local_tile(line, (keys,), (tile,)),
            tile_bias[None, place.index],
            mbar_ptr=place.barrier,
        )
