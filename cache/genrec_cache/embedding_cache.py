"""An embedding cache: a large host table, and its hot rows in a small fast one.

On a GPU a lookup is one kernel that reads hot rows from the GPU's memory and the others straight
from the host's; what becomes hot is decided by a thread beside it. On the CPU the same class is
the plain twin: it decides, copies and counts alike. Every row that it returns is the host table's
row of the version that it names.

Letters in shapes: V rows of the table, W width of a row, C slots, N ids, K unique ids of a lookup.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genrec_cache import snapshot
from genrec_cache.background import Background, Job
from genrec_cache.cache_stats import CacheStats
from genrec_cache.dropped_rows import DroppedRows
from genrec_cache.fast_rows import FastRows
from genrec_cache.host_rows import HostRows
from genrec_cache.hot_set import NO_SLOT, HotSet
from genrec_cache.policy import HotSetPolicy, Ints, Plan, PolicySettings
from genrec_cache.streams import sent
from genrec_cache.table import EmbeddingTable
from genrec_cache.waiting_ids import Batch, WaitingIds
from genrec_kernels.dispatch import Backend

# Missed rows are brought over once a batch where more of their uses than this are repeats. On an
# H200 with half of them repeats that broke even at 25,600 ids and gained a sixth at 262,144.
_MERGE_ABOVE = 0.5
# Batches that may wait to be counted.
_WAITING = 4

_log = logging.getLogger(__name__)


class CachedTable(EmbeddingTable):
    """Rows by index, the often used ones from the fast table.

    Threads may share it: a lookup sees one version of the table as a whole.

    Args:
        host: float [V, W] on the CPU, or :class:`HostRows`; kept as it is (not copied), and it
            must not change while it is used. On a GPU it is pinned where it is.
        capacity: C; 0 is no cache, more than V is as good as V.
        device: of the fast table.
        version: of the rows.
        settings: of the policy.
        background: decide in a thread of its own, so that no lookup waits for it; None: on a GPU.
            Batches come to it as they can be counted: where it lags, some are left out.
        batch_ids: lookups are counted together, and what is hot is decided, once they have had so
            many ids; 0: after each. Where lookups are small, deciding takes longer than they do.
        backend: of the kernels; None chooses.

    Raises:
        ValueError: `host` is not a matrix with rows, or the capacity is below 0.
    """

    def __init__(
        self,
        host: Tensor | HostRows,
        capacity: int,
        *,
        device: torch.device | str = "cpu",
        version: int = 0,
        settings: PolicySettings | None = None,
        background: bool | None = None,
        batch_ids: int = 0,
        backend: Backend | None = None,
    ) -> None:
        # Of a tensor: with an index, as the devices of ids have one.
        self.device = torch.empty(0, device=device).device
        self._backend = backend
        self._on_gpu = self.device.type == "cuda"
        stored = _stored(host)
        self._policy = HotSetPolicy(stored.num_rows, capacity, settings)
        # Slots for the capacity asked for: the table may grow up to it.
        self._capacity = capacity
        # Two locks, taken in this order: one decides at a time, one uses the rows at a time.
        self._deciding = threading.RLock()
        self._lock = threading.Lock()
        self._version = version
        self._rows = self._fast_rows(stored)
        self._retired: list[FastRows] = []
        self._set = HotSet(self.num_rows, self._policy.capacity)
        self._stats = CacheStats()
        self._announced: Ints = np.zeros(0, np.int64)
        self._out_of_range = 0
        self._merge = False
        self._start = "cold"
        self._dropped: DroppedRows | None = None
        threaded = self._on_gpu if background is None else background
        self._background = Background("hot-cache", waiting=_WAITING) if threaded else None
        self._waiting = WaitingIds(batch_ids)

    @property
    def host(self) -> HostRows:
        """The whole table of the present version."""
        return self._rows.host

    @property
    def num_rows(self) -> int:
        """V."""
        return self._rows.host.num_rows

    @property
    def width(self) -> int:
        """W."""
        return self._rows.host.width

    @property
    def capacity(self) -> int:
        """C, at most V."""
        return self._policy.capacity

    @property
    def version(self) -> int:
        """Of the rows that the next lookup returns."""
        return self._version

    @property
    def stats(self) -> CacheStats:
        """What was done so far, as far as it is counted."""
        return self._stats

    @property
    def residents(self) -> Ints:
        """Ids that have a slot, ascending."""
        with self._deciding:
            return self._set.residents

    def statistics(self) -> dict[str, float | str]:
        """Everything that an operator would look at, by name; rates are shares of 1."""
        self._settle()
        with self._deciding:
            done, overlap = self._stats, self._policy.overlap()
            host = self._rows.host
            return {
                **asdict(done),
                "hit_rate": done.hits / max(1, done.accesses),
                "unique_hit_rate": done.unique_hits / max(1, done.unique),
                "hot_set_overlap": overlap,
                "out_of_range": self._out_of_range,
                "capacity": self._policy.capacity,
                "residents": len(self._set),
                "rows": host.num_rows,
                "version": self._version,
                "copies_under_way": self._rows.copies_under_way,
                "copy_failures": self._rows.copy_failures,
                "batches_not_counted": 0 if self._background is None else self._background.skipped,
                "decisions_failed": 0 if self._background is None else self._background.failures,
                "host_path": "cpu"
                if not self._on_gpu
                else "zero-copy"
                if host.pinned
                else "gather",
                "slot_bytes": self._rows.slot_bytes,
                "host_bytes": host.num_bytes,
                "start": self._start,
                "problem": self._problem(),
            }

    def _problem(self) -> str:
        """What an operator should mend, in words; nothing where all is well."""
        rows = self._rows
        failed = 0 if self._background is None else self._background.failures
        said = (
            (rows.host.problem, f"rows are gathered by the CPU: {rows.host.problem}"),
            (rows.copy_failures, f"{rows.copy_failures} copies into slots failed"),
            (failed, f"{failed} decisions failed"),
            (self._out_of_range, f"{self._out_of_range} gathers asked for rows beyond the table"),
        )
        return "; ".join(text for is_so, text in said if is_so)

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of these ids, as the base class says."""
        return self.lookup_versioned(ids)[0]

    def lookup_versioned(self, ids: Tensor, *, ahead: Tensor | None = None) -> tuple[Tensor, int]:
        """Rows of these ids, and the version that all of them are of.

        Args:
            ids: int64 [...], in [0, V); repeated ids are fine. On a GPU nothing waits where they
                are still on the CPU.
            ahead: ids of the next lookup where it is known, any shape: their rows are copied now.

        Returns:
            float [..., W] on the device, and the version.

        Raises:
            IndexError: an id is out of range; the message names the first few. Nothing changed.
        """
        self.check(ids)
        if ahead is not None:
            self.check(ahead)
        return self._look_up(ids, ahead)

    def gather(self, ids: Tensor, *, counted: bool = True) -> Tensor:
        """As `lookup`, for ids that its caller vouches for: nothing ever waits.

        Rows of ids out of range are NaN, are counted, and are named in the log later.

        Args:
            ids: int64 [...], on the device or the CPU.
            counted: False where another lookup of these very ids is counted.
        """
        return self._look_up(ids, None, counted=counted)[0]

    def gather_versioned(self, ids: Tensor, *, counted: bool = True) -> tuple[Tensor, int]:
        """As `gather`, and the version that all rows are of."""
        return self._look_up(ids, None, counted=counted)

    @contextmanager
    def in_use(self, ids: Tensor | None) -> Iterator[None]:
        """A block in which `launch` may be called, or a CUDA graph replayed that was captured so.

        Args:
            ids: that are looked up in the block, for the policy; None: nothing is counted.
        """
        with self._lock:
            rows = self._rows
            rows.begin()
            try:
                yield
            finally:
                rows.end()
        if ids is not None:
            self._note(ids.detach().flatten(), None)

    def launch(self, ids: Tensor) -> Tensor:
        """Rows [N, W] of ids int64 [N] on the device, as `gather` gives them, inside `in_use`.

        A graph that captured it holds good until the next `swap`.
        """
        return self._rows.launch(ids)

    def announce(self, ids: Tensor) -> None:
        """Copy rows that lookups to come will need, before those begin.

        Args:
            ids: int64, any shape: of all requests that wait. They come first until the next call,
                which replaces them.

        Raises:
            IndexError: an id is out of range.
        """
        self.check(ids)
        queued = ids.detach().cpu().flatten().numpy().copy()

        def decide() -> None:
            with self._deciding:
                self._announced = np.unique(queued)
                self._carry_out(self._policy.announce(self._announced))

        self._later(decide)

    def warm(self, popularity: Ints) -> None:
        """Fill the slots before the first lookup.

        Args:
            popularity: uses in the training data, [V], at least 0.

        Raises:
            ValueError: another length, or there was a lookup already.
        """
        with self._deciding:
            self._carry_out(self._policy.warm(popularity))
            self._start = "popularity"
            with self._lock:
                self._rows.finish_copies()

    def watch_dropped(self, slots: int) -> None:
        """From here on, count what so many slots more would have brought: see `take_missed`."""
        with self._deciding:
            self._dropped = DroppedRows(self.num_rows, slots)

    def take_missed(self) -> int:
        """Unique ids since the last call that hit had there been the slots of `watch_dropped`.

        An estimate from below: those slots would not be given to what was dropped last, but to
        what is most promising.
        """
        self._settle()
        with self._deciding:
            return 0 if self._dropped is None else self._dropped.take_missed()

    def save(self, path: Path) -> None:
        """Write what was learnt to a file: see :mod:`genrec_cache.snapshot`."""
        self._settle()
        with self._deciding:
            state, host = self._policy.state(), self._rows.host
        snapshot.save(path, state, digest=host.digest())

    def restore(self, path: Path) -> None:
        """Start from what a cache of the same table has learnt, before the first lookup.

        Raises:
            SnapshotUnfit: the file is of another table, or no snapshot.
            OSError: it cannot be read.
            ValueError: there was a lookup already.
        """
        with self._deciding:
            state = snapshot.load(path, digest=self._rows.host.digest())
            self._carry_out(self._policy.restore(state))
            self._start = "snapshot"
            with self._lock:
                self._rows.finish_copies()

    def swap(self, host: Tensor | HostRows, *, version: int) -> None:
        """Take a new table; lookups before it see the old rows, those after it the new ones.

        Lookups go on meanwhile. Hot items stay hot: the new table's rows of the residents are in
        their slots at once.

        Args:
            host: [V', W] with V' at least V (new items come at the end).
            version: of these rows, not the present one.

        Raises:
            ValueError: the shape or the version does not fit; nothing changed.
        """
        new = _stored(host)
        with self._deciding:
            old = self._rows
            if new.layout != old.host.layout:
                raise ValueError(
                    f"a table of {self.width} columns and {old.host.stored.values.dtype} is needed"
                )
            if version == self._version or new.num_rows < self.num_rows:
                raise ValueError("a swap needs another version, and no fewer rows than before")
            residents = self._set.residents
            slots = HotSet(new.num_rows, min(self._capacity, new.num_rows))
            rows = self._fast_rows(new)
            everyone = Plan(evict=residents[:0], admit=residents)
            rows.replace(everyone.evict, everyone.admit, slots.apply(everyone))
            rows.finish_copies()
            self._policy.grow(new.num_rows)
            if self._dropped is not None:
                self._dropped.grow(new.num_rows)
            self._policy.capacity = min(self._capacity, new.num_rows)
            with self._lock:
                self._rows, self._version, self._set = rows, version, slots
                self._retired.append(old)

    def flush(self) -> None:
        """Wait until every lookup so far is counted and every copy has arrived."""
        self._settle()
        if self._background is not None:
            self._background.flush()
        with self._lock:
            self._rows.finish_copies()

    def close(self) -> None:
        """End the thread that decides, and wait for what still reads the host's rows."""
        self._settle()
        if self._background is not None:
            self._background.close()
            self._background = None
        with self._lock:
            for rows in (*self._retired, self._rows):
                rows.wait()
            self._retired.clear()

    def _fast_rows(self, host: HostRows) -> FastRows:
        if self._on_gpu:
            host.pin()
        capacity = min(self._capacity, host.num_rows)
        return FastRows(host, capacity, self.device, backend=self._backend)

    def _look_up(
        self, ids: Tensor, ahead: Tensor | None, *, counted: bool = True
    ) -> tuple[Tensor, int]:
        flat = ids.detach().flatten()
        with self._lock:
            rows, version = self._rows, self._version
            out = rows.gather(sent(flat, self.device), merge_repeats=self._merge)
            wrong = rows.saw_outside
            self._retired = [old for old in self._retired if not old.idle]
            self._out_of_range += int(wrong)
        if wrong:
            _log.warning(
                "a gather asked for rows beyond the table's %d: they are NaN", rows.host.num_rows
            )
        if counted:
            self._note(flat, ahead)
        return out.view(*ids.shape, self.width), version

    def _note(self, ids: Tensor, ahead: Tensor | None) -> None:
        """Have a lookup counted, and the hot set follow it, once there are enough."""
        batch = self._waiting.add(ids)
        if batch is None and ahead is not None:
            batch = self._waiting.take()
        if batch is not None:
            self._hand_over(batch, ahead)

    def _settle(self) -> None:
        """Have all lookups so far counted."""
        batch = self._waiting.take()
        if batch is not None:
            self._hand_over(batch, None)

    def _hand_over(self, batch: Batch, ahead: Tensor | None) -> None:
        if self._background is None:
            self._count(batch, ahead)
        elif self._background.has_room():
            queued = None if ahead is None else ahead.detach().clone()
            self._background.offer(lambda: self._count(batch, queued))

    def _later(self, job: Job) -> None:
        if self._background is None:
            job()
        else:
            self._background.offer(job)

    def _count(self, batch: Batch, ahead: Tensor | None) -> None:
        asked = batch.wait().numpy()
        with self._deciding:
            inside = (asked >= 0) & (asked < self.num_rows)
            if not inside.all():
                named = ", ".join(map(str, asked[~inside][:5]))
                _log.warning("rows %s were asked for: the table has %d", named, self.num_rows)
                asked = asked[inside]
            unique, uses = np.unique(asked, return_counts=True)
            hit = self._set.slot_of[unique] != NO_SLOT
            missed = int(uses[~hit].sum())
            self._merge = missed - int((~hit).sum()) > _MERGE_ABOVE * missed
            self._stats = self._stats.with_batch(uses, hit, lookups=batch.lookups)
            queued = self._announced
            if ahead is not None:
                queued = np.union1d(queued, ahead.cpu().numpy())
            plan = self._policy.after_batch(unique, ahead=queued if len(queued) else None)
            if self._dropped is not None:
                self._dropped.ask(unique[~hit])
                refused = np.setdiff1d(unique[~hit], plan.admit, assume_unique=True)
                self._dropped.drop(np.concatenate([plan.evict, refused]))
            self._carry_out(plan)

    def _carry_out(self, plan: Plan) -> None:
        slots = self._set.apply(plan)
        with self._lock:
            self._rows.replace(plan.evict, plan.admit, slots)
            under_way = self._rows.under_way
        if self._background is not None and under_way:
            # Waited for and entered here, so that no lookup has to enter them.
            for fence in under_way:
                fence.wait()
            with self._lock:
                self._rows.enter_copied()
        self._stats = self._stats.with_swaps(len(plan.admit), len(plan.evict))


def _stored(host: Tensor | HostRows) -> HostRows:
    return host if isinstance(host, HostRows) else HostRows(host)
