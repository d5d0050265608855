"""Counts of a cache: lookups, hits, copies.

Letters in shapes: K unique ids of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """What a cache has done since it was made.

    Args:
        lookups: calls.
        accesses, hits: ids looked up, and those of them that were in a slot.
        unique, unique_hits: the same, with each id once a batch that was counted.
        copies: rows copied into slots.
        evictions: rows that lost their slot.
    """

    lookups: int = 0
    accesses: int = 0
    hits: int = 0
    unique: int = 0
    unique_hits: int = 0
    copies: int = 0
    evictions: int = 0

    def with_batch(
        self, uses: NDArray[np.int64], hit: NDArray[np.bool_], *, lookups: int = 1
    ) -> CacheStats:
        """After so many lookups more, of K unique ids together: int64 and bool [K]."""
        return replace(
            self,
            lookups=self.lookups + lookups,
            accesses=self.accesses + int(uses.sum()),
            hits=self.hits + int(uses[hit].sum()),
            unique=self.unique + len(uses),
            unique_hits=self.unique_hits + int(hit.sum()),
        )

    def with_swaps(self, copies: int, evictions: int) -> CacheStats:
        """After so many rows more came into slots, and lost theirs."""
        return replace(self, copies=self.copies + copies, evictions=self.evictions + evictions)
