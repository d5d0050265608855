"""A table in tiers: hot rows on the device, warm ones in the host's memory, all on disk or Redis.

For tables that the host's memory does not hold. A tier keeps what its own policy chooses of all
that is asked for, so a row may be in several; the fastest is read. What a batch brought from below
is there to be admitted: no row is read twice for it.

Letters in shapes: V rows of the table, W width of a row, N ids, K unique ids of a lookup.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genrec_cache.hot_set import NO_SLOT, HotSet
from genrec_cache.policy import HotSetPolicy, Ints, Plan, PolicySettings
from genrec_cache.row_sources import RowSource
from genrec_cache.table import EmbeddingTable

# Rows that a swap reads of the new source at a time.
_SWAP_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class TierStats:
    """What a tier gave.

    Args:
        reads: lookups that it had rows for.
        rows: unique rows that it gave.
        accesses: ids that those rows answered.
        seconds, slowest: of its reads, as this thread saw them: in all, and the longest.
        copies: rows admitted to it.
    """

    reads: int = 0
    rows: int = 0
    accesses: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    copies: int = 0


class _Tier:
    """Rows of one memory, chosen by a policy of its own."""

    def __init__(
        self, num_rows: int, capacity: int, settings: PolicySettings | None, rows: Tensor
    ) -> None:
        self.policy = HotSetPolicy(num_rows, capacity, settings)
        self.slots = HotSet(num_rows, self.policy.capacity)
        self.rows = rows

    def admit(self, plan: Plan, unique: Ints, rows: Tensor) -> None:
        """Carry a plan out with rows [K, W] of a batch's unique ids, which are ascending."""
        slots = torch.from_numpy(self.slots.apply(plan)).to(self.rows.device)
        places = torch.from_numpy(np.searchsorted(unique, plan.admit)).to(rows.device)
        self.rows[slots] = rows[places].to(self.rows.device)


class TieredTable(EmbeddingTable):
    """Rows by index from the fastest memory that has them.

    Threads may share it: a lookup sees one version of the table as a whole.

    Args:
        source: the whole table.
        device_rows, host_rows: slots of the two tiers; 0 is no such tier.
        device: of the fast tier and of the rows that a lookup returns.
        version: of the rows.
        settings: of the policies.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        device_rows: int,
        host_rows: int,
        device: torch.device | str = "cpu",
        version: int = 0,
        settings: PolicySettings | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._settings = settings
        self._sizes = {"device": device_rows, "host": host_rows}
        self._lock = threading.Lock()
        self._swapping = threading.Lock()
        self._source, self._version = source, version
        self._tiers = {name: self._tier(name, source) for name in self._sizes}
        self._stats = {name: TierStats() for name in (*self._sizes, "source")}

    @property
    def num_rows(self) -> int:
        """V."""
        return self._source.num_rows

    @property
    def width(self) -> int:
        """W."""
        return self._source.width

    @property
    def version(self) -> int:
        """Of the rows that the next lookup returns."""
        return self._version

    @property
    def stats(self) -> dict[str, TierStats]:
        """By tier: `device`, `host` and `source`."""
        with self._lock:
            return dict(self._stats)

    def statistics(self) -> dict[str, dict[str, float]]:
        """By tier: share of accesses and of unique rows, mean and longest read in milliseconds."""
        stats = self.stats
        accesses = max(1, sum(tier.accesses for tier in stats.values()))
        rows = max(1, sum(tier.rows for tier in stats.values()))
        return {
            name: {
                "hit_rate": tier.accesses / accesses,
                "unique_hit_rate": tier.rows / rows,
                "mean_ms": 1e3 * tier.seconds / max(1, tier.reads),
                "slowest_ms": 1e3 * tier.slowest,
                "copies": tier.copies,
            }
            for name, tier in stats.items()
        }

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of these ids, as the base class says.

        Raises:
            IndexError: an id is out of range.
            RowsUnavailable: the source did not give what no tier has; nothing changed.
        """
        return self.lookup_versioned(ids)[0]

    def lookup_versioned(self, ids: Tensor) -> tuple[Tensor, int]:
        """Rows of these ids, and the version that all of them are of; raises as `lookup`."""
        self.check(ids)
        asked = ids.detach().cpu().flatten().numpy()
        unique, place, uses = np.unique(asked, return_inverse=True, return_counts=True)
        with self._lock:
            rows = self._read(unique, uses)
            for name, tier in self._tiers.items():
                plan = tier.policy.after_batch(unique)
                tier.admit(plan, unique, rows)
                done = self._stats[name]
                self._stats[name] = replace(done, copies=done.copies + len(plan.admit))
            version = self._version
        flat = rows[torch.from_numpy(place.reshape(-1)).to(self.device)]
        return flat.view(*ids.shape, self.width), version

    def swap(self, source: RowSource, *, version: int) -> None:
        """Take a new table; lookups before it see the old rows, those after it the new ones.

        Lookups go on while the rows of all residents are read from the new source.

        Raises:
            ValueError: the shape or the version does not fit; nothing changed.
            RowsUnavailable: the new source does not give the residents' rows; nothing changed.
        """
        if (source.width, source.dtype) != (self.width, self._source.dtype):
            raise ValueError(f"a table of {self.width} columns and {self._source.dtype} is needed")
        if source.num_rows < self.num_rows:
            raise ValueError("a swap needs no fewer rows than before")
        with self._swapping:
            if version == self._version:
                raise ValueError("a swap needs another version")
            with self._lock:
                wanted = {name: tier.slots.residents for name, tier in self._tiers.items()}
            new = {name: self._tier(name, source) for name in self._tiers}
            for name, residents in wanted.items():
                for start in range(0, len(residents), _SWAP_ROWS):
                    part = residents[start : start + _SWAP_ROWS]
                    new[name].admit(Plan(evict=part[:0], admit=part), part, source.read(part))
            with self._lock:
                for name, tier in new.items():
                    # What was learnt stays; residents that came meanwhile are read again.
                    tier.policy = self._tiers[name].policy
                    tier.policy.grow(source.num_rows)
                    tier.policy.capacity = min(self._sizes[name], source.num_rows)
                    tier.policy.keep(wanted[name])
                self._tiers, self._source, self._version = new, source, version

    def _tier(self, name: str, source: RowSource) -> _Tier:
        room = min(self._sizes[name], source.num_rows)
        device = self.device if name == "device" else torch.device("cpu")
        pinned = name == "host" and self.device.type == "cuda"
        with torch.inference_mode(False):
            rows = torch.empty(
                (room, source.width), dtype=source.dtype, device=device, pin_memory=pinned
            )
        return _Tier(source.num_rows, self._sizes[name], self._settings, rows)

    def _read(self, unique: Ints, uses: Ints) -> Tensor:
        """Rows [K, W] on the device; what each tier gave is counted if all could be had."""
        out = torch.empty((len(unique), self.width), dtype=self._source.dtype, device=self.device)
        left = np.arange(len(unique))
        counted = dict(self._stats)
        for name in (*self._tiers, "source"):
            begin = time.perf_counter()
            if name == "source":
                found, given = np.ones(len(left), np.bool_), left
                rows = self._source.read(unique[given]) if len(given) else out[:0]
            else:
                slots = self._tiers[name].slots.slot_of[unique[left]]
                found = slots != NO_SLOT
                given = left[found]
                stored = self._tiers[name].rows
                rows = stored[torch.from_numpy(slots[found]).long().to(stored.device)]
            if len(given):
                out[torch.from_numpy(given).to(self.device)] = rows.to(self.device)
                took, done = time.perf_counter() - begin, counted[name]
                counted[name] = replace(
                    done,
                    reads=done.reads + 1,
                    rows=done.rows + len(given),
                    accesses=done.accesses + int(uses[given].sum()),
                    seconds=done.seconds + took,
                    slowest=max(done.slowest, took),
                )
            left = left[~found]
        self._stats = counted
        return out
