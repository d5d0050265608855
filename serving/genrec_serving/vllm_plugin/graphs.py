"""Work on static tensors that a GPU replays as CUDA graphs, one for each size."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch


class Graphs:
    """Captured functions by the size that they were captured for; they share their memory.

    What one leaves in that memory is overwritten by the next: results go to tensors outside of it.
    """

    def __init__(self) -> None:
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def __len__(self) -> int:
        return len(self._graphs)

    def replay(self, size: Hashable, run: Callable[[], None]) -> None:
        """Do what `run` did when it was captured for this size; now, where it was not yet."""
        self.capture(size, run)
        self._graphs[size].replay()

    def capture(self, size: Hashable, run: Callable[[], None]) -> None:
        """Capture a function for a size, unless there is one."""
        if size in self._graphs:
            return
        # Kernels compile in the first run, which must not be captured. It writes what the replay
        # writes again.
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads copy rows meanwhile, which a capture of all threads would not survive.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        self._pool = graph.pool()
        self._graphs[size] = graph
