"""Slots by hash, for ids of 64 bits that no table could be indexed with.

Set-associative: an id's hash names a set of 16 slots, and the id is in one of these or nowhere. So
a look-up reads 16 keys, and room is made by comparing 16 residents. Who is worth a slot is judged
by counts of all ids, resident or not, in a count-min sketch that forgets by halving: Einziger,
Friedman and Manes, "TinyLFU: A Highly Efficient Cache Admission Policy", ACM ToS 2017.

Letters in shapes: S sets, K unique ids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec_cache.hot_set import NO_SLOT

Ints = NDArray[np.int64]

WAYS = 16

# Counters a slot of the sketch, its rows, batches between two halvings: TinyLFU's own proportions.
_COUNTERS = 8
_SKETCH_ROWS = 4
_HALVED_EVERY = 64
# Uses by which a newcomer must be ahead of the resident whose slot it takes.
_MARGIN = 1.0


class HashedSlots:
    """Which id is in which slot, and who comes next.

    Args:
        capacity: slots, rounded up to whole sets; 0 is no cache.

    Raises:
        ValueError: the capacity is below 0.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 0:
            raise ValueError(f"{capacity} slots make no cache")
        self.num_sets = -(-capacity // WAYS)
        self._keys: Ints = np.zeros((self.num_sets, WAYS), np.int64)
        self._used = np.zeros((self.num_sets, WAYS), np.bool_)
        counters = max(1024, _COUNTERS * self.capacity)
        self._sketch = np.zeros((_SKETCH_ROWS, counters), np.float32)
        self._batches = 0

    @property
    def capacity(self) -> int:
        """Slots."""
        return self.num_sets * WAYS

    @property
    def residents(self) -> tuple[Ints, Ints]:
        """Ids that have a slot, ascending, and their slots."""
        slots = np.flatnonzero(self._used)
        order = np.argsort(self._keys.reshape(-1)[slots])
        return self._keys.reshape(-1)[slots][order], slots[order]

    def find(self, ids: Ints) -> Ints:
        """Slot of each id, [K]; NO_SLOT where it has none."""
        if not self.num_sets:
            return np.full(len(ids), NO_SLOT, np.int64)
        sets = self._set_of(ids)
        here = (self._keys[sets] == ids[:, None]) & self._used[sets]
        return np.where(here.any(axis=1), sets * WAYS + here.argmax(axis=1), NO_SLOT)

    def after_batch(self, used: Ints) -> tuple[Ints, Ints, int]:
        """Learn from a batch, and let its missed ids take slots that they deserve more.

        Args:
            used: ids of the batch, [K], each once.

        Returns:
            Ids that got a slot, their slots, and how many residents lost theirs.
        """
        self._count(used)
        empty = np.zeros(0, np.int64)
        if not self.num_sets:
            return empty, empty, 0
        left = used[self.find(used) == NO_SLOT]
        left = left[np.argsort(-self._estimate(left), kind="stable")]
        admitted, slots, evicted = [empty], [empty], 0
        # The best of each set in turn: a set that refuses its best refuses the others too.
        while len(left):
            sets, first = np.unique(self._set_of(left), return_index=True)
            newcomers = left[first]
            worth = np.where(
                self._used[sets], self._estimate(self._keys[sets].reshape(-1)).reshape(-1, WAYS), -1
            )
            # A row that this batch used or admitted is read or written now: it stays.
            worth[np.isin(self._keys[sets], used) & self._used[sets]] = np.inf
            way = worth.argmin(axis=1)
            lowest = worth[np.arange(len(sets)), way]
            taken = (lowest < 0) | (self._estimate(newcomers) > lowest + _MARGIN)
            evicted += int((lowest[taken] >= 0).sum())
            self._keys[sets[taken], way[taken]] = newcomers[taken]
            self._used[sets[taken], way[taken]] = True
            admitted.append(newcomers[taken])
            slots.append(sets[taken] * WAYS + way[taken])
            rest = np.delete(left, first)
            left = rest[np.isin(self._set_of(rest), sets[taken])]
        return np.concatenate(admitted), np.concatenate(slots), evicted

    def _set_of(self, ids: Ints) -> Ints:
        out: Ints = (_mixed(ids, 0) % np.uint64(self.num_sets)).astype(np.int64)
        return out

    def _count(self, used: Ints) -> None:
        self._batches += 1
        if self._batches % _HALVED_EVERY == 0:
            self._sketch *= 0.5
        for row, places in enumerate(self._places(used)):
            np.add.at(self._sketch[row], places, np.float32(1.0))

    def _estimate(self, ids: Ints) -> NDArray[np.float32]:
        counts = [self._sketch[row, places] for row, places in enumerate(self._places(ids))]
        out: NDArray[np.float32] = np.minimum.reduce(counts)
        return out

    def _places(self, ids: Ints) -> list[Ints]:
        size = np.uint64(self._sketch.shape[1])
        return [(_mixed(ids, row + 1) % size).astype(np.int64) for row in range(_SKETCH_ROWS)]


def _mixed(ids: Ints, seed: int) -> NDArray[np.uint64]:
    """A hash of each id: the finaliser of MurmurHash3, on the id moved by the seed."""
    moved = (seed * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    x = ids.astype(np.uint64) + np.uint64(moved)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x ^= x >> np.uint64(33)
        x *= np.uint64(factor)
    x ^= x >> np.uint64(33)
    return x
