"""Rows that a cache lately had to do without, and how often that was missed.

What :class:`genrec_cache.memory_split.Dropped` is for single keys, for whole batches of dense ids.

Letters in shapes: V ids, K ids of a batch.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class DroppedRows:
    """Remembers what was dropped last. An id that is dropped twice takes two of the places.

    Args:
        num_ids: V.
        entries: remembered: as many as one step of memory holds.
    """

    def __init__(self, num_ids: int, entries: int) -> None:
        self._entries = entries
        # When each was dropped, counted in drops; below 0: it was not.
        self._at = np.full(num_ids, -1, np.int64)
        self._drops = 0
        self._missed = 0

    def grow(self, num_ids: int) -> None:
        """Take in ids that are new in the catalogue."""
        self._at = np.pad(self._at, (0, num_ids - len(self._at)), constant_values=-1)

    def drop(self, ids: Ints) -> None:
        """These [K] left the cache, or were refused by it."""
        self._at[ids] = np.arange(self._drops, self._drops + len(ids))
        self._drops += len(ids)

    def ask(self, ids: Ints) -> None:
        """These [K], each once, were asked for and not found."""
        found = ids[self._at[ids] >= max(0, self._drops - self._entries)]
        self._at[found] = -1
        self._missed += len(found)

    def take_missed(self) -> int:
        """Hits that one more step of memory would have brought since the last call."""
        missed, self._missed = self._missed, 0
        return missed
