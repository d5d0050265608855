"""Which tiles a block computes, in which order."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
from cutlass import Int32


def schedule_of(variant, num_rows, num_columns, width, group):
    """The tiles of a launch.

    Args:
        variant: a `LinearVariant`.
        num_rows, num_columns, width: Int32, R, N and K.
        group: Int32, tiles of rows that run side by side for each tile of columns, so that both
            are shared through the L2 cache.

    Returns:
        `steps` of each product. `first`, the first tile of the cluster, and `stride`, from one of
        its tiles to the next, of `tiles` in all; these are tiles of a whole cluster. `rank`, the
        block's place in it; `row_tiles`, `column_tiles` and `group`.
    """
    tile = variant.tile
    row_tiles = cute.ceil_div(num_rows, tile.block_rows * tile.cluster_rows)
    column_tiles = cute.ceil_div(num_columns, tile.columns)
    rank = Int32(0)
    if tile.cluster_rows > 1:
        rank = cute.arch.make_warp_uniform(cute.arch.block_idx_in_cluster())
    return SimpleNamespace(
        steps=cute.ceil_div(width, variant.depth),
        first=Int32(cute.arch.block_idx()[0]) // tile.cluster_rows,
        stride=Int32(cute.arch.grid_dim()[0]) // tile.cluster_rows,
        tiles=row_tiles * column_tiles,
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        group=group,
        rank=rank,
    )


@cute.jit
def place_of(variant: cutlass.Constexpr, schedule, index):
    """Tile of rows and tile of columns of this block, where its cluster computes tile `index`."""
    per_group = schedule.group * schedule.column_tiles
    first = index // per_group * schedule.group
    size = cutlass.min(schedule.row_tiles - first, schedule.group)
    inside = index % per_group
    row_tile = (first + inside % size) * variant.tile.cluster_rows + schedule.rank
    return row_tile, inside // size
