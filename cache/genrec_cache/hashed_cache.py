"""The cache for sparse ids: any 64-bit number names a row, and a source has it.

Letters in shapes: W width of a row, C slots, K unique ids of a lookup.
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from genrec_cache.cache_stats import CacheStats
from genrec_cache.hashed_slots import HashedSlots
from genrec_cache.hot_set import NO_SLOT
from genrec_cache.policy import Ints
from genrec_cache.row_sources import SparseSource


class HashedTable:
    """Rows by 64-bit id, the often used ones from a device's memory.

    Slots are found on the CPU, so ids are best left there. Threads may share it: a lookup sees one
    version of the table as a whole.

    Args:
        source: of all rows.
        capacity: C, rounded up to a multiple of 16; 0 is no cache.
        device: of the slots and of the rows that a lookup returns.
        version: of the rows.
    """

    def __init__(
        self,
        source: SparseSource,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        version: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self._source, self._version = source, version
        self._slots = HashedSlots(capacity)
        self._fast = self._room()
        self._stats = CacheStats()
        self._lock = threading.Lock()

    @property
    def width(self) -> int:
        """W."""
        return self._source.width

    @property
    def version(self) -> int:
        """Of the rows that the next lookup returns."""
        return self._version

    @property
    def stats(self) -> CacheStats:
        """What was done so far."""
        return self._stats

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows [..., W] of ids int64 [...]; raises as `lookup_versioned`."""
        return self.lookup_versioned(ids)[0]

    def lookup_versioned(self, ids: Tensor) -> tuple[Tensor, int]:
        """Rows of these ids, and the version that all of them are of.

        Args:
            ids: int64 [...]; repeated ids are fine.

        Returns:
            float [..., W] on the device, and the version.

        Raises:
            RowsUnavailable: the source lacks a row or does not answer; nothing changed.
        """
        asked = ids.detach().cpu().flatten().numpy()
        unique, place, uses = np.unique(asked, return_inverse=True, return_counts=True)
        with self._lock:
            slots = self._slots.find(unique)
            hit = slots != NO_SLOT
            missed = self._source.read(unique[~hit]).to(self.device)
            rows = torch.empty(
                (len(unique), self.width), dtype=self._fast.dtype, device=self.device
            )
            rows[self._at(np.flatnonzero(hit))] = self._fast[self._at(slots[hit])]
            rows[self._at(np.flatnonzero(~hit))] = missed
            admitted, into, evicted = self._slots.after_batch(unique)
            self._fast[self._at(into)] = rows[self._at(np.searchsorted(unique, admitted))]
            version = self._version
            self._stats = self._stats.with_batch(uses, hit).with_swaps(len(admitted), evicted)
        return rows[self._at(place.reshape(-1))].view(*ids.shape, self.width), version

    def swap(self, source: SparseSource, *, version: int) -> None:
        """Take new rows for all ids; lookups wait while those of the residents are read.

        Raises:
            ValueError: the width, the type or the version does not fit; nothing changed.
            RowsUnavailable: the new source does not give the residents' rows; nothing changed.
        """
        if (source.width, source.dtype) != (self.width, self._source.dtype):
            raise ValueError(f"rows of {self.width} columns and {self._source.dtype} are needed")
        with self._lock:
            if version == self._version:
                raise ValueError("a swap needs another version")
            ids, slots = self._slots.residents
            rows = source.read(ids)
            self._source, self._version = source, version
            # A tensor of its own: rows that were handed out are no part of it, reads may go on.
            self._fast = self._room()
            self._fast[self._at(slots)] = rows.to(self.device)

    def _room(self) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(
                (self._slots.capacity, self.width), dtype=self._source.dtype, device=self.device
            )

    def _at(self, places: Ints) -> Tensor:
        return torch.from_numpy(places).to(self.device)
