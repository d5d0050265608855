"""Rows of requests that wait in a queue are fetched before their turn comes.

A request that waits is certain to be served, so its items come before all that is only likely.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterable

import numpy as np
import torch
from torch import Tensor

from genrec_cache.embedding_cache import CachedTable


class Prefetch:
    """Announces the ids of all waiting requests to a cache. Threads may share it.

    Args:
        table: whose rows the requests need.
        most: ids that are announced at most, oldest requests first: more than the cache holds
            would drive each other out. None: as many as it has slots.
    """

    def __init__(self, table: CachedTable, *, most: int | None = None) -> None:
        self._table = table
        self._most = table.capacity if most is None else most
        self._waiting: dict[Hashable, Tensor] = {}
        self._lock = threading.Lock()

    def queued(self, request: Hashable, ids: Tensor) -> None:
        """A request waits that will look these ids up (int64, any shape).

        Raises:
            IndexError: an id is out of range; the request is not announced.
        """
        self._table.check(ids)
        with self._lock:
            self._waiting[request] = torch.from_numpy(np.unique(ids.detach().cpu().numpy()))
            self._announce()

    def taken(self, requests: Iterable[Hashable]) -> None:
        """These requests have been looked up, or were dropped; unknown ones are no error."""
        with self._lock:
            for request in requests:
                self._waiting.pop(request, None)
            self._announce()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def _announce(self) -> None:
        chosen = [torch.zeros(0, dtype=torch.int64)]
        room = self._most
        for ids in self._waiting.values():
            chosen.append(ids[:room])
            room -= len(chosen[-1])
            if not room:
                break
        self._table.announce(torch.cat(chosen))
