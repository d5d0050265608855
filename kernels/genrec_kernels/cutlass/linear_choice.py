"""Which tiles the kernels of the linear layers are compiled with, and which one a product takes."""

from __future__ import annotations

from collections.abc import Mapping
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


_128X128 = LinearTile(rows=128, columns=128, stages=6)
_BOTH_128X128 = LinearTile(rows=64, columns=128, stages=6, together=True)
_64X256 = LinearTile(rows=64, columns=256, stages=5)
_128X96 = LinearTile(rows=128, columns=96, stages=7)
_64X128 = LinearTile(rows=64, columns=128, stages=8, cluster_rows=2)
_64X64 = LinearTile(rows=64, columns=64, stages=12)

#: Measured on an H200 with 384 to 8,192 rows: with SiLU 4,096 columns, with a residual 1,024.
#: Larger clusters, and one warp group a few steps behind the other, were no faster.
_SILU = {
    _128X128: TileTime(9.2, 5.8),
    _64X256: TileTime(9.3, 5.8),
    _128X96: TileTime(7.7, 4.7),
    _64X128: TileTime(6.1, 3.45),
    _64X64: TileTime(4.0, 2.8),
}
_ADD = {
    _128X128: TileTime(10.0, 8.0),
    _64X256: TileTime(10.1, 7.4),
    _128X96: TileTime(8.4, 7.0),
    _64X128: TileTime(7.5, 4.0),
    _64X64: TileTime(5.9, 2.95),
}
_FP8_SILU = {
    _BOTH_128X128: TileTime(7.4, 5.15),
    _64X256: TileTime(8.2, 4.4),
    _64X64: TileTime(4.6, 1.7),
}
_FP8_ADD = {
    _128X96: TileTime(7.5, 4.4),
    _64X256: TileTime(8.5, 5.3),
    _64X128: TileTime(6.5, 3.0),
    _64X64: TileTime(4.9, 1.85),
}


def tile_times(*, fp8: bool, adds: bool) -> dict[LinearTile, TileTime]:
    """The tiles that a layer's kernels are compiled with.

    Args:
        fp8: whether operands have eight bits.
        adds: whether a residual is added, else SiLU is applied.
    """
    if fp8:
        return _FP8_ADD if adds else _FP8_SILU
    return _ADD if adds else _SILU


def all_linear_variants() -> list[LinearVariant]:
    """What `python -m genrec_kernels.cutlass.build` compiles of them."""
    elements: list[Element] = [*ELEMENTS.values(), "fp8"]
    return [
        LinearVariant(element=element, adds=adds, tile=tile)
        for element, adds in product(elements, (False, True))
        for tile in tile_times(fp8=element == "fp8", adds=adds)
    ]


def choose_tile(
    rows: int, columns: int, multiprocessors: int, times: Mapping[LinearTile, TileTime]
) -> LinearTile:
    """The tile with which a product is done soonest.

    Args:
        rows, columns: of the product.
        multiprocessors: of the GPU, each of which has a block.
        times: of the tiles to choose from, at least one.
    """

    def time(tile: LinearTile) -> float:
        rounds = -(-cluster_tiles(tile, rows, columns) // (multiprocessors // tile.cluster_rows))
        return times[tile].first + (rounds - 1) * times[tile].further

    return min(times, key=time)


def cluster_tiles(tile: LinearTile, rows: int, columns: int) -> int:
    """How many tiles of whole clusters a product has."""
    high = -(-rows // (tile.block_rows * tile.cluster_rows))
    wide = -(-columns // tile.columns)
    return high * wide
