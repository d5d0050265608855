"""Launches the kernels that prepare the relative bias for the attention kernels."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.bias_plan import plan_bias, plan_tiles
from genrec_kernels.triton.hstu_tile import TIME_CELLS

#: Rows whose times share one pair of bounds, rows of one program, and tiles of one program.
_EXTENT_ROWS, _PLAN_ROWS, _PLAN_TILES = 32, 1024, 128


@dataclass(frozen=True)
class BiasPlan:
    """Times and tables as the attention kernels read them.

    Letters in shapes: R rows, B sequences, P positions, E stretches of the longest sequence.

    Args:
        bias: the tables, float32.
        offsets: int64 [B + 1], first row of each sequence.
        max_rows: at least the rows of the longest sequence.
        seconds: int32 [R], times from the middle of a sequence's times.
        extents: int32 [B, E, 2], earliest and latest of each stretch of rows.
        pairs: float32 [P + 1, 2], position biases in pairs.
        cells: int32 [TIME_CELLS, 4], time biases by cells of differences.
    """

    bias: RelativeBias
    offsets: Tensor
    max_rows: int
    seconds: Tensor
    extents: Tensor
    pairs: Tensor
    cells: Tensor
    _tiles: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def tiles(self, rows: int, keys: int) -> Tensor:
        """int32 [B, row tiles, key tiles, 4]: which tiles lie in at most two time buckets."""
        if (rows, keys) not in self._tiles:
            self._tiles[rows, keys] = self._plan_tiles(rows, keys)
        return self._tiles[rows, keys]

    def _plan_tiles(self, rows: int, keys: int) -> Tensor:
        sequences = self.offsets.shape[0] - 1
        row_tiles, key_tiles = triton.cdiv(self.max_rows, rows), triton.cdiv(self.max_rows, keys)
        tiles = torch.empty(
            (sequences, row_tiles, key_tiles, 4), dtype=torch.int32, device=self.seconds.device
        )
        with on_device(tiles.device):
            plan_tiles[(row_tiles, sequences)](
                self.offsets,
                self.extents,
                self.bias.time,
                self.bias.boundaries,
                tiles,
                self.extents.shape[1],
                self.bias.time.shape[0],
                row_tiles,
                key_tiles,
                ROWS=_EXTENT_ROWS,
                M=rows,
                N=keys,
                T=_PLAN_TILES,
            )
        return tiles


def make_bias_plan(
    bias: RelativeBias, timestamps: Tensor, offsets: Tensor, max_rows: int
) -> BiasPlan:
    """The plan of a batch and a layer's tables.

    Args:
        bias: the tables, of any float dtype.
        timestamps: int64 [R].
        offsets: int64 [B + 1], first row of each sequence.
        max_rows: at least the rows of the longest sequence.
    """
    device = timestamps.device
    bias = RelativeBias(
        bias.position.float().contiguous(), bias.time.float().contiguous(), bias.boundaries
    )
    sequences, positions = offsets.shape[0] - 1, bias.position.shape[0]
    num_extents = triton.cdiv(max_rows, _EXTENT_ROWS)
    seconds = torch.empty(timestamps.shape, dtype=torch.int32, device=device)
    extents = torch.empty((sequences, num_extents, 2), dtype=torch.int32, device=device)
    pairs = torch.empty((positions + 1, 2), dtype=torch.float32, device=device)
    cells = torch.empty((TIME_CELLS.value, 4), dtype=torch.int32, device=device)
    if timestamps.shape[0] > 0:
        with on_device(device):
            plan_bias[(triton.cdiv(max_rows, _PLAN_ROWS), sequences)](
                timestamps,
                offsets,
                bias.position,
                bias.time,
                bias.boundaries,
                seconds,
                extents,
                pairs,
                cells,
                num_extents,
                positions,
                bias.time.shape[0],
                N=_PLAN_ROWS,
                ROWS=_EXTENT_ROWS,
            )
    return BiasPlan(bias, offsets, max_rows, seconds, extents, pairs, cells)


def on_device(device: torch.device) -> Any:
    """Launches inside go to this device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
