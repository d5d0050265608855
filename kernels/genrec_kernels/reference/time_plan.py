"""The time plan in plain PyTorch.

Letters in shapes: R rows of all sequences, B sequences, G blocks of rows of the longest sequence.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from genrec_kernels.plan_blocks import BLOCK_ROWS, FARTHEST, NEVER_SEEN, UNORDERED, num_blocks
from genrec_kernels.relative_bias import time_bucket


def plan_times(
    timestamps: Tensor, offsets: Tensor, boundaries: Tensor, max_rows: int
) -> tuple[Tensor, Tensor]:
    """int32 [R] and int16 [B, G, G], as `genrec_kernels.time_plan.TimePlan` says."""
    blocks = num_blocks(max_rows)
    seconds = torch.empty(timestamps.shape, dtype=torch.int32, device=timestamps.device)
    shape = (offsets.shape[0] - 1, blocks, blocks)
    buckets = torch.full(shape, NEVER_SEEN, dtype=torch.int16, device=timestamps.device)
    bounds = offsets.tolist()
    for sequence, (start, end) in enumerate(pairwise(bounds)):
        if start == end:
            continue
        times = timestamps[start:end]
        middle = (times.min() >> 1) + (times.max() >> 1)
        apart = (times - middle).clamp(-FARTHEST, FARTHEST)
        seconds[start:end] = apart.int()
        parts = torch.split(apart, BLOCK_ROWS)
        first, last = (
            torch.stack(bound) for bound in zip(*(part.aminmax() for part in parts), strict=True)
        )
        least = (first[:, None] - last[None, :]).clamp(min=0)
        most = (last[:, None] - first[None, :]).clamp(min=0)
        entry = time_bucket(most, boundaries) * 256 + time_bucket(least, boundaries)
        entry = torch.where(first[:, None] >= last[None, :], entry, UNORDERED)
        entry = torch.where(torch.ones_like(entry).tril() > 0, entry, NEVER_SEEN)
        buckets[sequence, : len(parts), : len(parts)] = entry.to(torch.int16)
    return seconds, buckets
