"""Slots of rows in a device's memory, and the table that says which row is in which.

On a GPU nothing here waits for the device. The order that keeps every row whole:

1. A plan takes the slots of evicted rows out of `slot_of`, after every gather before it.
2. On a stream of its own, after 1, the admitted rows are copied from the host into those slots.
   Meanwhile neither the old rows nor the new ones are found there: gathers read them from the host.
3. Once the copies are done, the new rows are entered into `slot_of`, before the next gather.

Gathers and changes of `slot_of` follow each other, whichever streams they are on.

Letters in shapes: V rows of the table, C slots, W width of a row, N ids, K rows of a plan.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec_cache.host_rows import HostRows
from genrec_cache.streams import Fence, new_stream, sent
from genrec_kernels.cached_rows import NO_SLOT, StoredRows, cached_rows, copy_rows
from genrec_kernels.dispatch import Backend

Ints = NDArray[np.int64]

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Copy:
    """Rows on their way: ids and slots [K], and when they are there."""

    ids: Ints
    slots: Ints
    done: Fence | None


class FastRows:
    """The rows of one version. Its user keeps calls apart: one at a time.

    Args:
        host: the table; pinned where a GPU is to read it.
        capacity: C.
        device: of the slots.
        backend: of the kernels; None chooses.
    """

    def __init__(
        self,
        host: HostRows,
        capacity: int,
        device: torch.device,
        *,
        backend: Backend | None = None,
    ) -> None:
        self.host = host
        self.device = device
        self.copy_failures = 0
        self._on_gpu = device.type == "cuda"
        self._backend = backend
        # Written from threads of any mode, so not of inference mode.
        with torch.inference_mode(False):
            self._slot_of = torch.full((host.num_rows,), NO_SLOT, dtype=torch.int32, device=device)
            self._fast: StoredRows = host.empty_slots(capacity, device)
            # Set by kernels, read and cleared here.
            self._outside = torch.zeros(1, dtype=torch.int32, pin_memory=self._on_gpu)
        self._copies: deque[_Copy] = deque()
        self._last: Fence | None = None
        if self._on_gpu:
            self._edits = new_stream(device)
            self._copying = new_stream(device)
            # Whatever stream made the tensors above, all of them are ready for every stream.
            torch.cuda.current_stream(device).synchronize()

    @property
    def slot_bytes(self) -> int:
        """Of all slots, on the device."""
        return sum(part.nbytes for part in self._fast if part is not None)

    @property
    def copies_under_way(self) -> int:
        """Plans whose rows are not all in their slots yet."""
        return len(self._copies)

    @property
    def saw_outside(self) -> bool:
        """Whether a gather that has run met an id out of range; says so once."""
        found = bool(self._outside[0])
        if found:
            self._outside.zero_()
        return found

    def gather(self, ids: Tensor, *, merge_repeats: bool = False) -> Tensor:
        """Rows [N, W] of ids int64 [N] on the device; NaN for ids out of range."""
        self.begin()
        rows = self.launch(ids, merge_repeats=merge_repeats)
        self.end()
        return rows

    def begin(self) -> None:
        """Before launches on the current stream: changes of `slot_of` come first."""
        self.enter_copied()
        if self._on_gpu:
            self._follow(torch.cuda.current_stream(self.device))

    def launch(self, ids: Tensor, *, merge_repeats: bool = False) -> Tensor:
        """The kernel of `gather` alone, between `begin` and `end`; it may be captured."""
        return cached_rows(
            *(ids, self._slot_of),
            fast=self._fast,
            host=self.host.stored,
            outside=self._outside,
            dtype=self.host.dtype,
            merge_repeats=merge_repeats,
            backend=self._backend,
        )

    def end(self) -> None:
        """After launches: changes of `slot_of` wait for them."""
        if self._on_gpu:
            self._mark(torch.cuda.current_stream(self.device))

    def replace(self, evict: Ints, admit: Ints, slots: Ints) -> None:
        """Carry a plan out: `slots` [K] are those of `admit`, free or of `evict` until now.

        Where the copy fails, the rows stay where they are and are read from the host: that is
        counted and logged.
        """
        self.enter_copied()
        for copy in self._copies:
            kept = ~np.isin(copy.ids, evict)
            copy.ids, copy.slots = copy.ids[kept], copy.slots[kept]
        self._enter(evict, np.full(len(evict), NO_SLOT, np.int64))
        if not len(admit):
            return
        try:
            done = self._copy(admit, slots)
        except (RuntimeError, MemoryError) as error:
            self.copy_failures += 1
            _log.warning("%d rows stay on the host: their copy failed: %s", len(admit), error)
            return
        self._copies.append(_Copy(ids=admit, slots=slots, done=done))
        self.enter_copied()

    @property
    def under_way(self) -> list[Fence]:
        """When the copies will be there that are not entered yet."""
        return [copy.done for copy in self._copies if copy.done is not None]

    def finish_copies(self) -> None:
        """Wait for all copies and enter their rows."""
        for copy in self._copies:
            if copy.done is not None:
                copy.done.wait()
        self.enter_copied()

    def wait(self) -> None:
        """Wait for everything that reads the host's rows."""
        self.finish_copies()
        if self._last is not None:
            self._last.wait()

    @property
    def idle(self) -> bool:
        """Whether nothing reads the host's rows any more."""
        if any(copy.done is not None and not copy.done.passed for copy in self._copies):
            return False
        return self._last is None or self._last.passed

    def _copy(self, admit: Ints, slots: Ints) -> Fence | None:
        if not self._on_gpu:
            copy_rows(
                *(torch.from_numpy(admit), torch.from_numpy(slots)),
                source=self.host.stored,
                target=self._fast,
                backend=self._backend,
            )
            return None
        self._follow(self._copying)
        with torch.cuda.stream(self._copying):
            copy_rows(
                *(self._moved(admit), self._moved(slots)),
                source=self.host.stored,
                target=self._fast,
                backend=self._backend,
            )
        return Fence(self._copying)

    def enter_copied(self) -> None:
        """Enter the rows of finished copies, in the order of their plans."""
        while self._copies and (self._copies[0].done is None or self._copies[0].done.passed):
            copy = self._copies.popleft()
            self._enter(copy.ids, copy.slots)

    def _enter(self, ids: Ints, slots: Ints) -> None:
        if not len(ids):
            return
        if not self._on_gpu:
            self._slot_of[torch.from_numpy(ids)] = torch.from_numpy(slots).int()
            return
        self._follow(self._edits)
        with torch.cuda.stream(self._edits):
            self._slot_of.index_copy_(0, self._moved(ids), self._moved(slots).int())
        self._mark(self._edits)

    def _moved(self, numbers: Ints) -> Tensor:
        return sent(torch.from_numpy(numbers), self.device)

    def _follow(self, stream: torch.cuda.Stream) -> None:
        """Let a stream wait for the last use of `slot_of`."""
        if self._last is not None:
            self._last.hold(stream)

    def _mark(self, stream: torch.cuda.Stream) -> None:
        self._last = Fence(stream)
