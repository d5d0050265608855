"""Bias tables as the attention kernels read them, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.plan_blocks import MOST_STEPS, TIME_CELLS
from genrec_kernels.relative_bias import RelativeBias, time_bucket

_NEVER = 2**31 - 1


def bias_tables(bias: RelativeBias, scale: float = 0.5) -> tuple[Tensor, Tensor]:
    """As `genrec_kernels.triton.bias_tables.make_bias_tables`.

    Returns:
        float32 [P + 1, 2] and int32 [TIME_CELLS + T + MOST_STEPS, 4].
    """
    position, time = (x.float() * scale for x in (bias.position, bias.time))
    distance = torch.arange(position.shape[0] + 1, device=position.device)
    here = distance.clamp(max=position.shape[0] - 1)
    less = (distance - 1).clamp(min=0, max=position.shape[0] - 1)
    pairs = torch.stack([position[here], position[less]], 1)

    cell = torch.arange(TIME_CELLS, device=time.device)
    octave, eighths = (cell - 1).clamp(min=0) >> 3, 8 + ((cell - 1).clamp(min=0) & 7)
    least = torch.where(cell == 0, 0, ((eighths << octave) + 7) >> 3)
    after = torch.where(cell == 0, 0, (((eighths + 1) << octave) + 7) >> 3)
    bucket = time_bucket(torch.maximum(after - 1, least), bias.boundaries)
    cells = torch.stack(
        [
            bias.boundaries[bucket].int(),
            time[time_bucket(least, bias.boundaries)].view(torch.int32),
            time[bucket].view(torch.int32),
            least.int(),
        ],
        1,
    )
    last = time.shape[0] - 1
    number = torch.arange(time.shape[0] + MOST_STEPS, device=time.device)
    value, following = time[number.clamp(max=last)], time[(number + 1).clamp(max=last)]
    begin = bias.boundaries[(number + 1).clamp(max=last)]
    buckets = torch.stack(
        [
            torch.where(number < last, begin, _NEVER).int(),
            value.view(torch.int32),
            following.view(torch.int32),
            (following - value).view(torch.int32),
        ],
        1,
    )
    return pairs, torch.cat([cells, buckets])
