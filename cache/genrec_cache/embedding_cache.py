"""An embedding cache: a large host table, and its hot rows in a small fast one.

This is the plain twin on the CPU: it decides, copies and counts as a cache on a GPU does, and
every row that it returns is the host table's row of the version that it names.

Letters in shapes: V rows of the table, W width of a row, C slots, K unique ids of a lookup.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genrec_cache.hot_set import NO_SLOT, HotSet
from genrec_cache.policy import HotSetPolicy, Ints, Plan, PolicySettings
from genrec_cache.table import EmbeddingTable


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """What a cache has done since it was made.

    Args:
        lookups: calls.
        accesses, hits: ids looked up, and those of them that were in a slot.
        unique, unique_hits: the same, with each id once a call.
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


class CachedTable(EmbeddingTable):
    """Rows by index, the often used ones from the fast table.

    Threads may share it: a lookup sees one version of the table as a whole.

    Args:
        host: float [V, W], kept as it is (not copied); it must not change while it is used.
        capacity: C; 0 is no cache, more than V is as good as V.
        version: of the rows.
        settings: of the policy.

    Raises:
        ValueError: `host` is not a matrix with rows, or the capacity is below 0.
    """

    def __init__(
        self,
        host: Tensor,
        capacity: int,
        *,
        version: int = 0,
        settings: PolicySettings | None = None,
    ) -> None:
        if host.dim() != 2:
            raise ValueError(f"an embedding table is [V, W], got {tuple(host.shape)}")
        self._lock = threading.Lock()
        self._policy = HotSetPolicy(len(host), capacity, settings)
        # Slots for the capacity asked for: the table may grow up to it.
        self._capacity = capacity
        self._host = host
        self._version = version
        self._set = HotSet(len(host), self._policy.capacity)
        self._fast = host.new_empty((self._policy.capacity, host.shape[1]))
        self._stats = CacheStats()

    @property
    def num_rows(self) -> int:
        """V."""
        return int(self._host.shape[0])

    @property
    def width(self) -> int:
        """W."""
        return int(self._host.shape[1])

    @property
    def version(self) -> int:
        """Of the rows that the next lookup returns."""
        return self._version

    @property
    def stats(self) -> CacheStats:
        """What was done so far."""
        return self._stats

    @property
    def residents(self) -> Ints:
        """Ids whose rows are in the fast table, ascending."""
        with self._lock:
            return self._set.residents

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of these ids, as the base class says."""
        return self.lookup_versioned(ids)[0]

    def lookup_versioned(self, ids: Tensor, *, ahead: Tensor | None = None) -> tuple[Tensor, int]:
        """Rows of these ids, and the version that all of them are of.

        Args:
            ids: int64 [...], in [0, V); repeated ids are fine.
            ahead: ids of the next lookup where it is known, any shape: their rows are copied now.

        Returns:
            float [..., W], and the version.

        Raises:
            IndexError: an id is out of range; the message names the first few. Nothing changed.
        """
        with self._lock:
            self.check(ids)
            if ahead is not None:
                self.check(ahead)
            unique, place = np.unique(ids.cpu().numpy(), return_inverse=True)
            rows, hit = self._gather(unique)
            self._count(hit, place)
            queued = None if ahead is None else np.unique(ahead.cpu().numpy())
            self._carry_out(self._policy.after_batch(unique, ahead=queued))
            flat = rows.index_select(0, torch.from_numpy(place.reshape(-1)))
            return flat.view(*ids.shape, self.width), self._version

    def warm(self, popularity: Ints) -> None:
        """Fill the slots before the first lookup.

        Args:
            popularity: uses in the training data, [V], at least 0.

        Raises:
            ValueError: another length, or there was a lookup already.
        """
        with self._lock:
            self._carry_out(self._policy.warm(popularity))

    def swap(self, host: Tensor, *, version: int) -> None:
        """Take a new table; lookups before it see the old rows, those after it the new ones.

        Hot items stay hot: the new table's rows of the residents are in their slots at once.

        Args:
            host: float [V', W] with V' at least V (new items come at the end).
            version: of these rows, not the present one.

        Raises:
            ValueError: the shape or the version does not fit; nothing changed.
        """
        if host.dim() != 2 or host.shape[1] != self.width or host.dtype != self._host.dtype:
            raise ValueError(f"a table of {self.width} columns and {self._host.dtype} is needed")
        with self._lock:
            if version == self._version or len(host) < self.num_rows:
                raise ValueError("a swap needs another version, and no fewer rows than before")
            self._policy.grow(len(host))
            self._policy.capacity = min(self._capacity, len(host))
            residents = self._set.residents
            self._host, self._version = host, version
            self._set = HotSet(len(host), self._policy.capacity)
            self._fast = host.new_empty((self._policy.capacity, self.width))
            self._fill(Plan(evict=residents[:0], admit=residents))

    def _gather(self, unique: Ints) -> tuple[Tensor, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        """Rows [K, W] of these ids, and which came out of the fast table."""
        slots = self._set.slot_of[unique]
        hit = slots != NO_SLOT
        rows = self._host.new_empty((len(unique), self.width))
        rows[torch.from_numpy(hit)] = self._fast[torch.from_numpy(slots[hit])]
        rows[torch.from_numpy(~hit)] = self._host[torch.from_numpy(unique[~hit])]
        return rows, hit

    def _carry_out(self, plan: Plan) -> None:
        self._fill(plan)
        done = self._stats
        self._stats = replace(
            done,
            copies=done.copies + len(plan.admit),
            evictions=done.evictions + len(plan.evict),
        )

    def _fill(self, plan: Plan) -> None:
        slots = self._set.apply(plan)
        self._fast[torch.from_numpy(slots)] = self._host[torch.from_numpy(plan.admit)]

    def _count(self, hit: np.ndarray[tuple[int], np.dtype[np.bool_]], place: Ints) -> None:
        done = self._stats
        self._stats = replace(
            done,
            lookups=done.lookups + 1,
            accesses=done.accesses + place.size,
            hits=done.hits + int(hit[place].sum()),
            unique=done.unique + len(hit),
            unique_hits=done.unique_hits + int(hit.sum()),
        )
