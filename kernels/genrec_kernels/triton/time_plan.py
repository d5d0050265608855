"""Launches the kernels that plan a batch's times."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.plan_blocks import num_blocks
from genrec_kernels.triton.bias_plan import plan_buckets, plan_seconds

#: Rows of one program, and blocks of keys that one handles at a time.
_PLAN_ROWS, _PLAN_BLOCKS = 1024, 128


def plan_times(
    timestamps: Tensor, offsets: Tensor, boundaries: Tensor, max_rows: int
) -> tuple[Tensor, Tensor]:
    """As `genrec_kernels.time_plan.plan_times`.

    Args:
        timestamps: int64 [R].
        offsets: int64 [B + 1], first row of each sequence.
        boundaries: int64 [T + 1].
        max_rows: at least the rows of the longest sequence.
    """
    device, sequences, blocks = timestamps.device, offsets.shape[0] - 1, num_blocks(max_rows)
    seconds = torch.empty(timestamps.shape, dtype=torch.int32, device=device)
    buckets = torch.empty((sequences, blocks, blocks), dtype=torch.int16, device=device)
    if timestamps.shape[0] == 0:
        return seconds, buckets
    extents = torch.empty((sequences, blocks, 2), dtype=torch.int32, device=device)
    with on_device_of(timestamps):
        plan_seconds[(triton.cdiv(max_rows, _PLAN_ROWS), sequences)](
            timestamps.contiguous(), offsets, seconds, extents, blocks, N=_PLAN_ROWS
        )
        plan_buckets[(blocks, sequences)](
            offsets,
            extents,
            boundaries,
            buckets,
            blocks,
            boundaries.shape[0] - 1,
            K=_PLAN_BLOCKS,
            num_warps=1,
        )
    return seconds, buckets
