"""Which items a load asks for: all alike, or few of them most of the time.

Letters in shapes: V items, N drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class ItemPopularity:
    """Draws items from 0 to V - 1; popular ones are anywhere among them.

    Args:
        num_items: V.
        exponent: of Zipf's law: the k-th most popular item has weight ``k ** -exponent``. 0: all
            items are alike.
    """

    def __init__(self, num_items: int, exponent: float) -> None:
        weights = np.arange(1, num_items + 1, dtype=np.float64) ** -exponent
        self._weights = np.random.default_rng(0).permutation(weights / weights.sum())
        self._below = self._weights.cumsum()

    def draw(self, random: np.random.Generator, count: int) -> Ints:
        """int64 [N], each on its own."""
        found = np.searchsorted(self._below, random.random(count), side="right")
        return np.minimum(found, len(self._below) - 1).astype(np.int64)

    def draw_apart(self, random: np.random.Generator, count: int) -> Ints:
        """int64 [N], no item twice; drawn one after the other from those that are left."""
        # The items with the smallest exponential waiting times, in that order (Efraimidis and
        # Spirakis, "Weighted random sampling with a reservoir", 2006).
        waits = random.exponential(size=len(self._weights)) / self._weights
        first = np.argpartition(waits, count - 1)[:count]
        return first[np.argsort(waits[first])].astype(np.int64)

    def expected(self, draws: int) -> Ints:
        """int64 [V], how often each item comes in so many draws, rounded down."""
        return (self._weights * draws).astype(np.int64)
