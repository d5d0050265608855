"""What one more of something costs, from work of many sizes that was timed."""

from __future__ import annotations

import numpy as np


class MarginalCost:
    """A line through sizes and times, by least squares; old ones count less and less.

    Args:
        memory: what is left of an observation's weight at the next one, in (0, 1].
    """

    def __init__(self, *, memory: float = 0.999) -> None:
        self._memory = memory
        # Sums of 1, x, y, x·x, x·y.
        self._sums = np.zeros(5)

    def add(self, size: float, time: float) -> None:
        """Work of this size took so long."""
        self._sums = self._sums * self._memory + (1.0, size, time, size * size, size * time)

    def of_one(self) -> float:
        """Time that one more takes, in the unit of the times, at least 0.

        Where all sizes were the same it is the time of a unit on the average.
        """
        n, x, y, xx, xy = self._sums.tolist()
        if not x:
            return 0.0
        spread = n * xx - x * x
        slope = (n * xy - x * y) / spread if spread > 1e-9 * x * x else y / x
        return max(0.0, float(slope))
