"""Ids as they are asked for: by Zipf's law, popular ones anywhere in the table.

Letters in shapes: V ids, N drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Zipf:
    """Draws ids, the k-th most popular of them with weight ``k ** -exponent``.

    Args:
        num_ids: V.
        exponent: of the law.
        device: of what is drawn.
    """

    def __init__(self, num_ids: int, exponent: float, device: str) -> None:
        ranks = torch.arange(1, num_ids + 1, device=device, dtype=torch.float64)
        self._below = ranks.pow_(-exponent).cumsum_(0)
        self._below /= self._below[-1].clone()
        #: int64 [V], most popular first.
        self.by_popularity = torch.randperm(num_ids, device=device)

    def share(self, count: int) -> float:
        """Of all draws, those of the `count` most popular ids."""
        return float(self._below[count - 1])

    def counts(self, draws: int) -> Tensor:
        """int64 [V], how often each id is expected in so many draws, rounded down."""
        weight = torch.diff(self._below, prepend=self._below.new_zeros(1))
        out = torch.empty_like(self.by_popularity)
        out[self.by_popularity] = (weight * draws).long()
        return out

    def draw(self, count: int, *, first: int = 0, last: int | None = None) -> Tensor:
        """int64 [count], of the ids that are the first to the last in popularity (exclusive)."""
        low = float(self._below[first - 1]) if first else 0.0
        high = 1.0 if last is None else float(self._below[last - 1])
        chance = torch.rand(count, device=self._below.device, dtype=torch.float64)
        place = torch.searchsorted(self._below, chance * (high - low) + low)
        return self.by_popularity[place.clamp(first, (last or len(self._below)) - 1)]
