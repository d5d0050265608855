"""Slots of the fast memory: which id is in which.

Letters in shapes: V ids, C slots, K ids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec_cache.policy import Plan

Ints = NDArray[np.int64]

NO_SLOT = -1


class HotSet:
    """A direct table from id to slot, and back.

    Ids are dense, so an array is smaller and faster than a hash.

    Args:
        num_ids: V.
        capacity: C.
    """

    def __init__(self, num_ids: int, capacity: int) -> None:
        self.slot_of: NDArray[np.int32] = np.full(num_ids, NO_SLOT, np.int32)
        self.id_of: Ints = np.full(capacity, -1, np.int64)
        # Slots that were never used: from here on.
        self._unused = 0

    def __len__(self) -> int:
        """Slots in use."""
        return int((self.id_of >= 0).sum())

    @property
    def residents(self) -> Ints:
        """Ids that have a slot, ascending."""
        return np.sort(self.id_of[self.id_of >= 0])

    def apply(self, plan: Plan) -> Ints:
        """Carry a plan out.

        Returns:
            The slot that each id of `plan.admit` got, [K].

        Raises:
            ValueError: an evicted id is not here, an admitted one is, or there is no room.
        """
        left = self.slot_of[plan.evict]
        if (left == NO_SLOT).any() or (self.slot_of[plan.admit] != NO_SLOT).any():
            raise ValueError("a plan must evict residents and admit others")
        more = len(plan.admit) - len(left)
        if more < 0 or self._unused + more > len(self.id_of):
            raise ValueError(
                f"{len(plan.admit)} ids do not fit into the {len(left)} slots that are left "
                f"and {len(self.id_of) - self._unused} free ones"
            )
        slots: Ints = np.concatenate([left, np.arange(self._unused, self._unused + more)])
        self._unused += more
        self.slot_of[plan.evict] = NO_SLOT
        self.slot_of[plan.admit] = slots
        self.id_of[slots] = plan.admit
        return slots.astype(np.int64)
