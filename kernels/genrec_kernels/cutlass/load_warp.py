"""What the loading warp of a block does."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, const_expr
from cutlass.cute.nvgpu import cpasync

from genrec_kernels.cutlass.block_sizes import TILE_WORDS
from genrec_kernels.cutlass.key_tiles import key_tiles, limits_of_rows, tile_at
from genrec_kernels.cutlass.work import find_tile, tiles_of_lane
from genrec_kernels.fp8_layout import first_value_of


@cute.jit
def load_tiles(variant: cutlass.Constexpr, loads, shared, tensors, scalars, rings):
    """Claim tiles, tell the computing warps, bring their rows.

    Args:
        variant: an `AttentionVariant`.
        loads: has `q`, `k` and `v`, each a TMA copy and the tensor [R, D, H] (v: [D, R, H]) that
            it reads.
        shared, tensors, scalars, rings: see `HSTUForwardSm90.kernel`.
    """
    (q_copy, q_tma), (k_copy, k_tma), (v_copy, v_tma) = loads.q, loads.k, loads.v
    offsets, limits = tensors.offsets, tensors.limits
    # The DSL takes whose element is written in a branch for what the branch gives.
    work, claimed = shared.work, tensors.claimed
    rows, keys, width = variant.rows, variant.keys, variant.width
    heads = Int32(q_tma.shape[2])
    lane = cute.arch.lane_idx()
    blocks = cute.arch.grid_dim()[0]
    q_put = rings.q.make_producer()
    k_put = rings.k.make_producer()
    v_put = rings.v.make_producer()
    work_put = rings.work.make_producer()
    for copy in (q_copy, k_copy, v_copy):
        cpasync.prefetch_descriptor(copy)

    first_sequence = Int32(0)
    tiles = tiles_of_lane(offsets, first_sequence, scalars.group, rows)
    level = cute.arch.warp_redux_sync(tiles, "max") - 1
    passed = Int32(0)
    index = Int32(cute.arch.block_idx()[0])
    claim = Int32(-1)
    running = Boolean(True)
    while running:
        sequence, head, row_tile, first_sequence, tiles, level, passed = find_tile(
            index, offsets, heads, scalars.group, first_sequence, tiles, level, passed, rows
        )
        running = sequence >= 0
        start = Int32(-1)
        num_rows = Int32(0)
        num_history = Int32(0)
        first_row = row_tile * rows
        own_begin, own_end, begin, end = Int32(0), Int32(0), Int32(0), Int32(0)
        if running:
            start = Int32(offsets[sequence])
            num_rows = Int32(offsets[sequence + 1]) - start
            num_history = Int32(tensors.histories[sequence])
            least, most = limits_of_rows(limits, start, first_row, num_rows, num_history, rows)
            own_begin, own_end, begin, end = key_tiles(
                first_row,
                num_rows,
                num_history,
                least,
                most,
                scalars.window,
                rows,
                keys,
                variant.window,
            )
        slot = work_put.acquire_and_advance()
        if lane == 0:
            words = (
                *(start, num_rows, num_history, head, first_row),
                *(own_begin, own_end, begin, end, sequence),
            )
            for i in cutlass.range_constexpr(TILE_WORDS):
                work[i, slot.index] = words[i]
            slot.commit()
        if running:
            steps = own_end - own_begin + end - begin

            q_rows = cute.domain_offset((start + first_row, 0), q_tma[None, None, head])
            gq = cute.local_tile(q_rows, (rows, width), (0, 0))
            k_rows = cute.domain_offset((start, 0), k_tma[None, None, head])
            gk = cute.local_tile(k_rows, (keys, width), (None, 0))
            first_value = start
            if const_expr(variant.fp8):
                first_value = first_value_of(start, sequence)
            v_rows = cute.domain_offset((0, first_value), v_tma[None, None, head])
            gv = cute.local_tile(v_rows, (width, keys), (0, None))
            tqs, tqg = tma_views(q_copy, shared.q, gq)
            tks, tkg = tma_views(k_copy, shared.k, gk)
            tvs, tvg = tma_views(v_copy, shared.v, gv)

            place = q_put.acquire_and_advance()
            cute.copy(q_copy, tqg, tqs[None, place.index], tma_bar_ptr=place.barrier)
            # Values of a tile are needed after the keys of the next, so they come in that
            # order.
            previous = Int32(0)
            for step in cutlass.range(steps, unroll=1):
                tile = tile_at(step, own_begin, own_end, end)
                place = k_put.acquire_and_advance()
                cute.copy(
                    k_copy, tkg[None, tile], tks[None, place.index], tma_bar_ptr=place.barrier
                )
                if step > 0:
                    place = v_put.acquire_and_advance()
                    cute.copy(
                        v_copy,
                        tvg[None, previous],
                        tvs[None, place.index],
                        tma_bar_ptr=place.barrier,
                    )
                previous = tile
            place = v_put.acquire_and_advance()
            cute.copy(
                v_copy, tvg[None, previous], tvs[None, place.index], tma_bar_ptr=place.barrier
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


def tma_views(copy, shared, tiles):
    """Shared and global side of TMA copies: a copy's elements first, then stages, or tiles."""
    return cpasync.tma_partition(
        copy, 0, cute.make_layout(1), cute.group_modes(shared, 0, 2), cute.group_modes(tiles, 0, 2)
    )
