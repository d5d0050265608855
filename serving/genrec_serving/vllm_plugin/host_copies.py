"""Pages between vLLM's pool and the host's memory, layer by layer.

On a GPU copies run on a stream of their own, in the order in which they are asked for: what is
brought back for a layer arrives while those before it compute. On a CPU a layer's pages are copied
when it asks for them, so that the same calls are needed there.

Letters in shapes: S slots.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genrec_serving.vllm_plugin.host_index import Measured

#: A slot of the host's memory and a page of the pool.
Pair = tuple[int, int]
#: Fewer rows say more about what a step costs than about what a row does.
_MIN_ROWS = 64


class HostCopies:
    """Pages of all layers in the host's memory, and the copies to and from it.

    Args:
        caches: pages of each layer, float or int [pages, ...].
        slots: S.
    """

    def __init__(self, caches: Mapping[str, Tensor], slots: int) -> None:
        device = next(iter(caches.values())).device
        self._cuda = device.type == "cuda"
        self._caches = dict(caches)
        self._host = {
            name: torch.empty((slots, *pages.shape[1:]), dtype=pages.dtype, pin_memory=self._cuda)
            for name, pages in caches.items()
        }
        self._stream: Any = torch.cuda.Stream(device) if self._cuda else None  # type: ignore[no-untyped-call]
        self._coming: dict[str, Any] = {}
        self._stored: Any = None
        self._watch = _Watch(cuda=self._cuda)
        self._loading = False

    def load(self, pairs: Sequence[Pair]) -> None:
        """Begin to bring pages back; each layer has to `wait` for its own."""
        assert not self._coming, "every layer waits for its pages in every step"
        runs = list(_runs(pairs))
        self._loading = True
        if not self._cuda:
            self._coming = dict.fromkeys(self._caches, runs)
            return
        # Steps before this one may still read what was in these pages.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            begin = self._watch.mark(self._stream)
            for name in self._caches:
                self._copy_in(name, runs)
                self._coming[name] = self._watch.mark(self._stream)
            self._watch.copied(begin, self._coming[name], self._bytes(pairs))

    def wait(self, layer: str) -> None:
        """Before a layer's pages are read or written: what comes for it is there after this."""
        coming = self._coming.pop(layer, None)
        if coming is None:
            return
        if self._cuda:
            torch.cuda.current_stream().wait_event(coming)
            return
        begin = self._watch.mark(None)
        size = self._copy_in(layer, coming)
        self._watch.copied(begin, self._watch.mark(None), size)

    def wait_for_all(self) -> None:
        """`wait` for every layer."""
        for layer in list(self._coming):
            self.wait(layer)

    def begin(self, rows: int) -> None:
        """A step with so many new rows begins, which may write into pages that are being stored."""
        if self._stored is not None:
            torch.cuda.current_stream().wait_event(self._stored)
            self._stored = None
        if rows >= _MIN_ROWS and not self._loading:
            self._watch.step_begins(rows)

    def end(self, pairs: Sequence[Pair]) -> None:
        """The step's rows are in their pages; begin to store some of these."""
        self._watch.step_ends()
        self._loading = False
        if not pairs:
            return
        runs = list(_runs(pairs))
        if not self._cuda:
            self._copy_out(runs)
            return
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._copy_out(runs)
            self._stored = self._watch.mark(self._stream)

    def measured(self) -> Measured:
        """What was measured since the last call."""
        return self._watch.take()

    def _copy_in(self, layer: str, runs: Sequence[tuple[int, int, int]]) -> int:
        cache, host = self._caches[layer], self._host[layer]
        size = 0
        for slot, page, count in runs:
            part = host[slot : slot + count]
            cache[page : page + count].copy_(part, non_blocking=True)
            size += part.nbytes
        return size

    def _copy_out(self, runs: Sequence[tuple[int, int, int]]) -> None:
        for layer, cache in self._caches.items():
            host = self._host[layer]
            for slot, page, count in runs:
                host[slot : slot + count].copy_(cache[page : page + count], non_blocking=True)

    def _bytes(self, pairs: Sequence[Pair]) -> int:
        return len(pairs) * sum(host[0].nbytes for host in self._host.values())


def _runs(pairs: Sequence[Pair]) -> Iterator[tuple[int, int, int]]:
    """Neighbours in both places, as one copy each: first slot, first page, how many."""
    ordered = sorted(pairs)
    begin = 0
    for i in range(1, len(ordered) + 1):
        slot, page = ordered[begin]
        if i == len(ordered) or ordered[i] != (slot + i - begin, page + i - begin):
            yield slot, page, i - begin
            begin = i


class _Watch:
    """Times steps and copies, on a GPU without waiting for them."""

    def __init__(self, *, cuda: bool) -> None:
        self._cuda = cuda
        self._step: tuple[Any, int] | None = None
        #: Begin, end, and how much it was: rows of a step, bytes of a copy.
        self._steps: list[tuple[Any, Any, int]] = []
        self._copies: list[tuple[Any, Any, int]] = []

    def mark(self, stream: Any) -> Any:
        """Now: an event of the stream, or seconds."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(stream)
        return event

    def step_begins(self, rows: int) -> None:
        self._step = self.mark(self._current()), rows

    def step_ends(self) -> None:
        if self._step is not None:
            begin, rows = self._step
            self._steps.append((begin, self.mark(self._current()), rows))
            self._step = None

    def copied(self, begin: Any, end: Any, size: int) -> None:
        self._copies.append((begin, end, size))

    def take(self) -> Measured:
        step_ms, rows = self._sum(self._steps)
        copy_ms, size = self._sum(self._copies)
        return Measured(
            ms_per_row=step_ms / rows if rows else None,
            bytes_per_ms=size / copy_ms if copy_ms else None,
        )

    def _sum(self, times: list[tuple[Any, Any, int]]) -> tuple[float, int]:
        """Milliseconds and amount of those that are over, which are taken out."""
        ms, amount = 0.0, 0
        while times and (not self._cuda or times[0][1].query()):
            begin, end, of = times.pop(0)
            ms += begin.elapsed_time(end) if self._cuda else 1e3 * (end - begin)
            amount += of
        return ms, amount

    def _current(self) -> Any:
        return torch.cuda.current_stream() if self._cuda else None
