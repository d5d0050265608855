"""Ids of lookups that wait until there are enough of them to be counted as one batch.

Deciding what is hot takes about as long for a hundred ids as for some thousand. Where lookups are
small and many, that would be most of their time; together they cost next to nothing.

Letters in shapes: N ids.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from genrec_cache.streams import Fence


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Ids to be counted.

    Args:
        parts: int64 [N] each, on the CPU.
        lookups: that they are of.
        fences: what must have passed before the ids are there.
    """

    parts: list[Tensor]
    lookups: int
    fences: list[Fence]

    def wait(self) -> Tensor:
        """All ids [N], once they are there."""
        for fence in self.fences:
            fence.wait()
        return torch.cat(self.parts)


class WaitingIds:
    """Collects ids of one lookup after the other. Threads may share it.

    Ids on a GPU come to the CPU without anyone waiting for them.

    Args:
        enough: ids that make a batch; 0: each lookup is one.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._lock = threading.Lock()
        self._parts: list[Tensor] = []
        self._count = 0
        self._streams: set[torch.cuda.Stream] = set()
        #: What the next ids may take.
        self._room = torch.empty(0, dtype=torch.int64)
        self._pinned = False

    def add(self, ids: Tensor) -> Batch | None:
        """Take ids [N]; a batch where there are enough now."""
        with self._lock:
            if ids.is_cuda:
                self._streams.add(torch.cuda.current_stream(ids.device))
            if len(ids) > len(self._room) or ids.is_cuda != self._pinned:
                size = max(len(ids), 2 * self._enough)
                with torch.inference_mode(False):  # lookups of either mode share it
                    self._room = torch.empty(size, dtype=torch.int64, pin_memory=ids.is_cuda)
                self._pinned = ids.is_cuda
            part, self._room = self._room[: len(ids)], self._room[len(ids) :]
            part.copy_(ids, non_blocking=True)
            self._parts.append(part)
            self._count += len(ids)
            return self._take() if self._count >= self._enough else None

    def take(self) -> Batch | None:
        """What waits, enough or not; None where nothing does."""
        with self._lock:
            return self._take() if self._parts else None

    def _take(self) -> Batch:
        fences = [Fence(stream) for stream in self._streams]
        batch = Batch(parts=self._parts, lookups=len(self._parts), fences=fences)
        self._parts, self._count, self._streams = [], 0, set()
        return batch
