"""Which tiles the kernels of the linear layers are compiled with, and which one a product takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

from genrec_kernels.cutlass.linear_variants import LinearTile, LinearVariant
from genrec_kernels.cutlass.variants import ELEMENTS, Element


@dataclass(frozen=True)
class TileTime:
    """Microseconds for a width of 1,024, as far as they tell tiles apart.

    first: of a launch with one tile a block.
    further: of each more.
    """

    first: float
    further: float


#: Estimated from the rates of the tensor cores and of the L2 cache, not measured.
TILES = {
    LinearTile(rows=64, columns=256, stages=4, together=True): TileTime(12.5, 11.5),
    LinearTile(rows=64, columns=256, stages=4, together=True, cluster_rows=2): TileTime(12, 11),
    LinearTile(rows=64, columns=256, stages=4, together=True, lag=2): TileTime(12.5, 11),
    LinearTile(rows=64, columns=256, stages=4, together=True, lag=2, cluster_rows=2): TileTime(
        12, 10.5
    ),
    LinearTile(rows=128, columns=128, stages=6): TileTime(8, 6.5),
    LinearTile(rows=128, columns=128, stages=6, cluster_rows=2): TileTime(7, 5.5),
    LinearTile(rows=128, columns=128, stages=6, cluster_columns=2): TileTime(7, 5.6),
    LinearTile(rows=128, columns=128, stages=6, cluster_rows=2, cluster_columns=2): TileTime(
        7, 5.4
    ),
    LinearTile(rows=64, columns=256, stages=5): TileTime(9, 7.5),
    LinearTile(rows=64, columns=256, stages=5, cluster_rows=2): TileTime(7, 5.5),
    LinearTile(rows=64, columns=128, stages=6, together=True): TileTime(7.5, 6.5),
    LinearTile(rows=64, columns=128, stages=8, cluster_rows=2): TileTime(4.8, 3.6),
    LinearTile(rows=128, columns=96, stages=7): TileTime(7, 6),
    LinearTile(rows=128, columns=96, stages=7, cluster_rows=2): TileTime(6, 4.8),
    LinearTile(rows=64, columns=64, stages=12): TileTime(5, 3.8),
    LinearTile(rows=64, columns=64, stages=12, cluster_rows=2): TileTime(4.2, 2.9),
    LinearTile(rows=64, columns=64, stages=12, cluster_rows=2, cluster_columns=2): TileTime(4, 2.9),
    LinearTile(rows=64, columns=32, stages=16, cluster_columns=2): TileTime(4, 2.8),
}
#: Of operands in eight bits, which have half the bytes and twice the rate; the same tiles.
FP8_TILES = {tile: TileTime(time.first / 1.6, time.further / 1.9) for tile, time in TILES.items()}


def all_linear_variants() -> list[LinearVariant]:
    """What `python -m genrec_kernels.cutlass.build` compiles of them."""
    elements: list[Element] = [*ELEMENTS.values(), "fp8"]
    return [
        LinearVariant(element=element, adds=adds, tile=tile)
        for element, adds in product(elements, (False, True))
        for tile in (FP8_TILES if element == "fp8" else TILES)
    ]


def choose_tile(
    rows: int, columns: int, multiprocessors: int, tiles: Collection[LinearTile], *, fp8: bool
) -> LinearTile:
    """The tile with which a product is done soonest, of several.

    Args:
        rows, columns: of the product.
        multiprocessors: of the GPU, each of which has a block.
        tiles: to choose from, at least one.
        fp8: whether operands have eight bits.
    """
    times = FP8_TILES if fp8 else TILES

    def time(tile: LinearTile) -> float:
        rounds = -(-cluster_tiles(tile, rows, columns) // (multiprocessors // tile.cluster))
        return times[tile].first + (rounds - 1) * times[tile].further

    return min(tiles, key=time)


def cluster_tiles(tile: LinearTile, rows: int, columns: int) -> int:
    """How many tiles of whole clusters a product has."""
    high = -(-rows // (tile.block_rows * tile.cluster_rows))
    wide = -(-columns // (tile.columns * tile.cluster_columns))
    return high * wide
