"""Counters from which blocks claim tiles of work.

A kernel needs one that is 0, and leaves it 0. Clearing one before each launch would cost more
than a microsecond, so they are kept. Launches that share a counter must follow one another.
"""

from __future__ import annotations

from threading import Lock

import torch
from torch import Tensor

#: Counters that one allocation holds.
_POOL = 4096


class ClaimCounters:
    """Counters of one device.

    Launches of a stream follow one another, so they share one. A launch that is captured in a
    CUDA graph may be replayed on any stream, so each gets its own.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._lock = Lock()
        self._unused: list[Tensor] = []
        self._of_stream: dict[int, Tensor] = {}

    def take(self, stream: int, *, capturing: bool) -> Tensor:
        """int32 [1]: zero whenever a launch that may use it begins."""
        with self._lock:
            if not capturing:
                if stream not in self._of_stream:
                    self._of_stream[stream] = self._next()
                return self._of_stream[stream]
            if not self._unused:
                # Memory that a graph allocates is the graph's own: let it be cleared there.
                return torch.zeros(1, dtype=torch.int32, device=self.device)
            return self._unused.pop()

    def _next(self) -> Tensor:
        if not self._unused:
            pool = torch.zeros(_POOL, dtype=torch.int32, device=self.device)
            if pool.is_cuda:
                # Another stream may be the first to use a counter.
                torch.cuda.current_stream(self.device).synchronize()
            self._unused = list(pool.chunk(_POOL))
        return self._unused.pop()


_counters: dict[torch.device, ClaimCounters] = {}


def claim_counter(device: torch.device) -> Tensor:
    """A counter for a launch on the current stream of a GPU."""
    if device not in _counters:
        _counters[device] = ClaimCounters(device)
    stream = torch.cuda.current_stream(device)
    return _counters[device].take(
        stream.cuda_stream, capturing=torch.cuda.is_current_stream_capturing()
    )
