"""The bias tables of a layer as the attention kernels read them.

Letters in shapes: P and T entries of the position and time tables.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.plan_blocks import MOST_STEPS, TIME_CELLS
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.bias_plan import plan_tables

_PLAN_POSITIONS = 1024


class BiasTables(NamedTuple):
    """See `plan_tables`.

    pairs: float32 [P + 1, 2], position biases in pairs.
    cells: int32 [TIME_CELLS + T + MOST_STEPS, 4], time biases by cells of differences, then by
        buckets.
    """

    pairs: Tensor
    cells: Tensor


def make_bias_tables(bias: RelativeBias, scale: float = 0.5) -> BiasTables:
    """Bring a layer's tables, of any float dtype, to the kernels' form, times `scale`."""
    positions, buckets = bias.position.shape[0], bias.time.shape[0]
    device = bias.position.device
    pairs = torch.empty((positions + 1, 2), dtype=torch.float32, device=device)
    cells = torch.empty((TIME_CELLS + buckets + MOST_STEPS, 4), dtype=torch.int32, device=device)
    with on_device_of(pairs):
        plan_tables[(triton.cdiv(positions + 1, _PLAN_POSITIONS),)](
            bias.position.float().contiguous(),
            bias.time.float().contiguous(),
            bias.boundaries,
            pairs,
            cells,
            positions,
            buckets,
            scale,
            N=_PLAN_POSITIONS,
        )
    return BiasTables(pairs, cells)
