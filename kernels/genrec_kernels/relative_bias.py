"""Relative position and time bias of HSTU (arXiv 2402.17152, section 3.3).

The bias of a query row on a key row is ``position[distance] + time[bucket(|Δt|)]``, shared by
all heads of a layer.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Width of a time bucket on the natural-log axis, as in Meta's implementation.
LOG_BUCKET_WIDTH = 0.301


class RelativeBias(NamedTuple):
    """Bias tables of one layer.

    position: float [P], by distance in rows; larger distances use the last entry.
    time: float [T], by bucket of the absolute time difference.
    boundaries: int64 [T + 1], from `time_bucket_boundaries`.
    """

    position: Tensor
    time: Tensor
    boundaries: Tensor

    def __call__(self, distance: Tensor, seconds: Tensor) -> Tensor:
        """Bias for distances (int64, any shape, negative counts as 0) and time differences."""
        nearest = distance.clamp(0, self.position.shape[0] - 1)
        bucket = time_bucket(seconds, self.boundaries)
        return _look_up(self.position, nearest) + _look_up(self.time, bucket)

    def self_bias(self) -> Tensor:
        """Bias of a row on itself (distance 0, no time between): a scalar."""
        return self.position[0] + self.time[0]


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """``table[index]``. This form has a deterministic gradient, ten times as fast on a CPU."""
    return table.index_select(0, index.flatten()).view(index.shape)


def time_bucket_boundaries(num_buckets: int) -> Tensor:
    """Smallest time difference in seconds of each bucket, and one past the last.

    Integers compare the same on every device, logarithms do not: with these boundaries the bucket
    is exact whatever the precision of `log`.

    Returns:
        int64 [num_buckets + 1]; the last entry is the largest int64, as the last bucket is open.
    """
    bounds = [math.ceil(math.exp(LOG_BUCKET_WIDTH * b)) if b else 0 for b in range(num_buckets)]
    return torch.tensor([*bounds, torch.iinfo(torch.int64).max], dtype=torch.int64)


def time_bucket(seconds: Tensor, boundaries: Tensor) -> Tensor:
    """``int(ln(max(|Δt|, 1)) / 0.301)``, clamped to the table.

    Args:
        seconds: int64, any shape, differences of timestamps (the sign is ignored).
        boundaries: int64 [T + 1].

    Returns:
        int64, the shape of `seconds`, in [0, T).
    """
    distance = seconds.abs()
    guess = distance.clamp(min=1).to(torch.float32).log() * (1.0 / LOG_BUCKET_WIDTH)
    bucket = guess.to(torch.int64).clamp(0, boundaries.shape[0] - 2)
    bucket = bucket + (distance >= boundaries[bucket + 1]).to(torch.int64)
    return bucket - (distance < boundaries[bucket]).to(torch.int64)
