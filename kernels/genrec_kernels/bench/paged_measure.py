"""Timing and records that the benchmarks of paged attention and of the fused ops share."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from genrec_kernels.bench.records import Record, append_records, where_and_when

log = logging.getLogger("bench")


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call."""

    p50: float
    p95: float


class Recorder:
    """Appends rows; the file's header is written once."""

    def __init__(self, path: Path, commit: str) -> None:
        self._path = path
        self._common = where_and_when(commit)

    def add(
        self,
        case: str,
        timing: Timing,
        *,
        backend: str,
        dtype: torch.dtype,
        work: float,
        unit: str,
        reference: str,
        reference_ms: float,
        error: float,
        note: str = "",
    ) -> None:
        """Append a row.

        Args:
            work: bytes or operations (or whatever `unit` counts, in 1e12) of one call.
        """
        row = Record(
            **self._common,
            case=case,
            backend=backend,
            dtype=str(dtype).removeprefix("torch."),
            p50_ms=round(timing.p50, 5),
            p95_ms=round(timing.p95, 5),
            rate=round(work / timing.p50 / 1e9, 3),
            unit=unit,
            reference=reference,
            reference_ms=round(reference_ms, 5),
            error=float(f"{error:.2g}"),
            note=note,
        )
        log.info(
            "%-34s %-9s %.4f ms  %7.2f %-8s  %s %.4f ms  error %.1e  %s",
            case, row.dtype, row.p50_ms, row.rate, unit, reference, reference_ms, error, note,
        )  # fmt: skip
        append_records(self._path, [row])


def time_graph(calls: Sequence[Callable[[], object]], *, replays: int = 30) -> Timing:
    """Time of one call: all calls in one CUDA graph, so no launch gap of Python's is in it.

    Callers bring as many calls, each on tensors of its own, as it takes to exceed the L2 cache.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        for call in calls:  # compiles and tunes
            call()
    torch.cuda.synchronize()
    repeats = max(1, 8 // len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            for call in calls:
                call()
    return _time(graph.replay, len(calls) * repeats, replays)


def time_eager(call: Callable[[], object], *, replays: int = 8) -> Timing:
    """Time of a call that cannot be captured, as it reads lengths on the host."""
    call()
    return _time(call, 1, replays)


def _time(run: Callable[[], object], calls: int, replays: int) -> Timing:
    for _ in range(2):
        run()
    times = []
    for _ in range(replays):
        begin, end = (
            torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / calls)
    times.sort()
    return Timing(statistics.median(times), times[min(len(times) - 1, int(0.95 * len(times)))])


def copy_bandwidth() -> float:
    """TB/s that a copy on the GPU reaches, bytes read plus bytes written."""
    source = torch.randn(2**30, device="cuda", dtype=torch.float32)
    target = torch.empty_like(source)
    seconds = time_eager(lambda: target.copy_(source)).p50 / 1e3
    return 2 * source.nbytes / seconds / 1e12


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """By the norm of the whole tensor."""
    return float((out.double() - expected).norm() / expected.norm())
