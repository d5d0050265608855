"""The variants of the linear layers' kernels that are compiled ahead of time."""

from __future__ import annotations

from dataclasses import dataclass

from genrec_kernels.cutlass.block_sizes import WARP_GROUP
from genrec_kernels.cutlass.variants import GROUP_ROWS, Element

#: Computing warp groups of a block.
GROUPS = 2
#: Bytes of a row that one step of a product takes: the widest swizzle of shared memory.
STEP_BYTES = 128
#: Columns that one pass of the epilogue takes: a quarter of a warp's row is 16 bytes of each lane.
PASS_COLUMNS = 32


@dataclass(frozen=True, kw_only=True)
class LinearTile:
    """What a block computes at a time, and with whom.

    Args:
        rows: of x that one warp group computes: a multiple of 64.
        columns: of the output, a multiple of 32, at most 256.
        stages: steps of x and W in shared memory at once.
        together: whether both warp groups compute one tile, one rows above the other; else each has
            a tile of its own, and one's products run beside the other's epilogue.
        cluster_rows: blocks of a cluster, below each other, which share what they read of W.
    """

    rows: int
    columns: int
    stages: int
    together: bool = False
    cluster_rows: int = 1

    def __post_init__(self) -> None:
        assert self.rows % GROUP_ROWS == 0
        assert self.columns % PASS_COLUMNS == 0
        assert self.columns <= 2 * WARP_GROUP

    @property
    def block_rows(self) -> int:
        """Rows of a block's tile."""
        return self.rows * (GROUPS if self.together else 1)

    @property
    def name(self) -> str:
        """Of a tile, in a variant's name."""
        parts = [f"{self.block_rows}x{self.columns}", "together" if self.together else "alternate"]
        if self.cluster_rows > 1:
            parts.append(f"cluster{self.cluster_rows}")
        return "_".join(parts)


@dataclass(frozen=True, kw_only=True)
class LinearVariant:
    """What is fixed when a kernel is compiled.

    Args:
        element: dtype of x and W, and of everything else; "fp8" is e4m3 with everything else in
            bfloat16, and float32 scales.
        adds: whether a residual is added, else SiLU is applied.
        tile: what a block computes at a time.
    """

    element: Element
    adds: bool
    tile: LinearTile

    @property
    def name(self) -> str:
        """Of its files."""
        return f"linear_{'add' if self.adds else 'silu'}_{self.element}_{self.tile.name}"

    @property
    def fp8(self) -> bool:
        """Whether x and W have eight bits."""
        return self.element == "fp8"

    @property
    def element_bytes(self) -> int:
        """Of x and W."""
        return 1 if self.fp8 else 2

    @property
    def depth(self) -> int:
        """Width of a step."""
        return STEP_BYTES // self.element_bytes

    @property
    def operand_bytes(self) -> int:
        """Shared memory of its stages."""
        return STEP_BYTES * (self.tile.block_rows + self.tile.columns) * self.tile.stages
