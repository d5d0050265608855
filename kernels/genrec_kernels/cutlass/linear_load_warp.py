"""What the loading warp of a block of the linear layers does."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int16, const_expr
from cutlass.cute.nvgpu import cpasync

from genrec_kernels.cutlass.linear_places import place_of


@cute.jit
def load_steps(variant: cutlass.Constexpr, loads, shared, ring, schedule):
    """Bring x and W of every step of every tile, in the order in which they are computed.

    Args:
        variant: a `LinearVariant`.
        loads: has `x` and `weight`, each a TMA copy and the tensor [R, K] or [N, K] that it reads.
        shared, ring, schedule: see `LinearSm90.kernel`.
    """
    tile = variant.tile
    (x_copy, x_tma), (w_copy, w_tma) = loads.x, loads.weight
    put = ring.make_producer()
    w_mask = None
    if const_expr(tile.cluster_rows > 1):
        w_mask = Int16((1 << tile.cluster_rows) - 1)

    for index in cutlass.range(schedule.first, schedule.tiles, schedule.stride, unroll=1):
        row_tile, column_tile = place_of(variant, schedule, index)
        gx = cute.local_tile(x_tma, (tile.block_rows, variant.depth), (row_tile, None))
        gw = cute.local_tile(w_tma, (tile.columns, variant.depth), (column_tile, None))
        txs, txg = _views(x_copy, shared.x, gx, 0, 1)
        tws, twg = _views(w_copy, shared.weight, gw, schedule.rank, tile.cluster_rows)
        for step in cutlass.range(schedule.steps, unroll=1):
            place = put.acquire_and_advance()
            cute.copy(x_copy, txg[None, step], txs[None, place.index], tma_bar_ptr=place.barrier)
            cute.copy(
                w_copy,
                twg[None, step],
                tws[None, place.index],
                tma_bar_ptr=place.barrier,
                mcast_mask=w_mask,
            )
    # A block must not end while others may still signal its barriers.
    put.tail()


def _views(copy, shared, tiles, rank, sharers):
    """Shared and global side of TMA copies of this block's part: a copy's elements first, then
    stages, or steps."""
    return cpasync.tma_partition(
        copy,
        rank,
        cute.make_layout(sharers),
        cute.group_modes(shared, 0, 2),
        cute.group_modes(tiles, 0, 2),
    )
