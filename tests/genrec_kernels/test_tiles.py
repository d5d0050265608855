"""Tables of tiles: the checked-in one, and what tuning adds to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec_kernels import tiles
from genrec_kernels.tiles import ShapeClass, Tile, remember_tile, set_tile_cache_dir, tile_for

SHAPE = ShapeClass(kernel="forward", bits=16, width=128, bias=True)
GPU = ("NVIDIA H200", (9, 0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiles, "_cache_dir", tmp_path)
    set_tile_cache_dir(tmp_path)
    yield tmp_path
    tiles.forget_tiles()


def test_a_tuned_tile_goes_before_the_checked_in_one(cache: Path) -> None:
    shipped = tile_for(SHAPE, *GPU)
    tuned = Tile(rows=128, keys=16, warps=8, stages=5, tma=True, registers=96)
    remember_tile(SHAPE, GPU[0], tuned)
    assert tile_for(SHAPE, *GPU) == tuned != shipped
    assert tile_for(SHAPE, "NVIDIA H100 80GB HBM3", (9, 0)) == shipped
    assert [path.name for path in cache.iterdir()] == ["nvidia-h200.json"]


def test_without_a_tile_for_the_bias_the_plain_one_serves(cache: Path) -> None:
    shape = ShapeClass(kernel="forward", bits=32, width=64, bias=True)
    plain = ShapeClass(kernel="forward", bits=32, width=64, bias=False)
    assert tile_for(shape, *GPU) == tile_for(plain, *GPU)


def test_a_class_that_nobody_knows(cache: Path) -> None:
    with pytest.raises(LookupError, match="forward-16-d1024 for hopper"):
        tile_for(ShapeClass(kernel="forward", bits=16, width=1024, bias=False), *GPU)


@pytest.mark.parametrize("change", [{"rows": 8}, {"keys": 48}, {"warps": 3}, {"stages": 0}])
def test_what_is_no_tile(change: dict[str, int]) -> None:
    sizes = {"rows": 64, "keys": 64, "warps": 4, "stages": 2} | change
    with pytest.raises(ValueError, match=next(iter(change))):
        Tile(**sizes)


def test_launch_options() -> None:
    tile = Tile(rows=64, keys=32, warps=4, stages=3)
    assert tile.options == {"num_warps": 4, "num_stages": 3}
    limited = Tile(rows=64, keys=32, warps=4, stages=3, registers=168)
    assert limited.options["maxnreg"] == 168
