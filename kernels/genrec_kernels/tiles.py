"""Tile sizes of the Triton kernels, by GPU and class of shapes.

What runs in a request is looked up, never tuned: first in the file that `genrec_kernels.autotune`
wrote for this GPU, then in the table `tiles.json` that is part of the package.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How a kernel is launched.

    Args:
        rows, keys: query rows and key rows of a tile, powers of two from 16.
        warps: warps a program.
        stages: depth of the software pipeline.
        tma: load keys and values through tensor descriptors (compute capability 9.0 or later).
        registers: most registers a thread, so that more programs share a multiprocessor; 0 leaves
            it to the compiler.
    """

    rows: int
    keys: int
    warps: int
    stages: int
    tma: bool = False
    registers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("rows", 16), ("keys", 16), ("warps", 1), ("stages", 1)):
            value = getattr(self, name)
            if value < least or (name != "stages" and value & (value - 1)):
                raise ValueError(f"{name} of a tile must be a power of two from {least}: {value}")

    @property
    def options(self) -> dict[str, int]:
        """Triton's launch options."""
        limit = {"maxnreg": self.registers} if self.registers else {}
        return {"num_warps": self.warps, "num_stages": self.stages, **limit}


@dataclass(frozen=True, kw_only=True)
class ShapeClass:
    """Shapes that share a tile.

    Args:
        kernel: name of the kernel.
        bits: 16 or 32, width of the inputs' dtype.
        width: widest head, rounded up to a power of two.
        bias: whether there is a relative bias.
    """

    kernel: str
    bits: int
    width: int
    bias: bool

    @property
    def key(self) -> str:
        """As in tile tables, such as ``forward-16-d128-bias``."""
        return f"{self.kernel}-{self.bits}-d{self.width}{'-bias' if self.bias else ''}"


_cache_dir = Path.home() / ".cache" / "genrec" / "tiles"


def set_tile_cache_dir(path: Path) -> None:
    """Keep tuned tiles in another folder than ``~/.cache/genrec/tiles``."""
    global _cache_dir
    _cache_dir = path
    forget_tiles()


def forget_tiles() -> None:
    """Read the tables again at the next look-up."""
    _table.cache_clear()
    tile_for.cache_clear()


@cache
def tile_for(shape: ShapeClass, gpu: str, capability: tuple[int, int]) -> Tile:
    """The tile of a class of shapes.

    Args:
        shape: what is to run.
        gpu: the GPU's name, as the driver gives it.
        capability: its compute capability.
    """
    for table in (_table(_tuned_file(gpu)), _table(None)[_gpu_class(capability)]):
        for key in (shape.key, shape.key.removesuffix("-bias")):
            if key in table:
                return Tile(**table[key])
    raise LookupError(f"tiles.json lacks {shape.key} for {_gpu_class(capability)}")


def remember_tile(shape: ShapeClass, gpu: str, tile: Tile) -> None:
    """Put a tuned tile into this GPU's file."""
    path = _tuned_file(gpu)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {**_table(path), shape.key: asdict(tile)}
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")
    scratch.replace(path)
    forget_tiles()


def _tuned_file(gpu: str) -> Path:
    name = "".join(c if c.isalnum() else "-" for c in gpu.lower())
    return _cache_dir / f"{name}.json"


@cache
def _table(path: Path | None) -> dict[str, dict[str, dict[str, int]]]:
    if path is None:
        text = files("genrec_kernels").joinpath("tiles.json").read_text()
    elif path.exists():
        text = path.read_text()
    else:
        return {}
    table: dict[str, dict[str, dict[str, int]]] = json.loads(text)
    return table


def _gpu_class(capability: tuple[int, int]) -> str:
    """Classes of the checked-in table, by tensor cores and shared memory."""
    if capability == (9, 0):
        return "hopper"  # H100, H200: 227 KB of shared memory, wgmma
    if capability in {(8, 0), (8, 7), (10, 0), (10, 3)}:
        return "ampere"  # A100: 163 KB; also right for larger ones that nobody tuned yet
    return "small"  # 99 KB: consumer and inference cards
