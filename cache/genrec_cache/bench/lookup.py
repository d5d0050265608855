"""Lookups in a table that does not fit: checked and timed in one run.

python -m genrec_cache.bench.lookup --commit $(git rev-parse --short HEAD)

The table is in the host's memory, a share of it is cached, ids come by Zipf's law. A batch of
25,600 ids is 128 histories of 200 events.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn

from genrec_cache.bench.zipf import Zipf
from genrec_cache.embedding_cache import CachedTable
from genrec_cache.host_memory import allocate
from genrec_cache.host_rows import HostRows
from genrec_kernels.bench.paged_measure import (
    Recorder,
    Timing,
    copy_bandwidth,
    time_eager,
    time_graph,
)
from genrec_kernels.cached_rows import NO_SLOT, cached_rows, copy_rows

RECORDS = Path(__file__).parents[2] / "bench" / "records.csv"
CASE = "cache-lookup-zipf105-5pct"
DTYPE = torch.bfloat16
WIDTH = 256
BATCHES = (25_600, 262_144)
#: Ids of different batches between two lookups of one batch, at least.
IDS_APART = 2_000_000
#: Rows that a GPU behind an IOMMU can translate the addresses of without misses, seen on an H200.
NEAR_ROWS = 2_000_000
#: Uses in the training data that a warm start knows of.
TRAINING_USES = 10**8

log = logging.getLogger("bench")


class Bench:
    """The table, its hot rows, and the bandwidths that a lookup is measured against."""

    def __init__(self, num_rows: int, recorder: Recorder) -> None:
        self.recorder = recorder
        begin = time.perf_counter()
        values = allocate(num_rows, WIDTH, DTYPE)
        touched = time.perf_counter()
        self.host = HostRows(values)
        assert self.host.pin(), self.host.problem
        pinned = time.perf_counter()
        for start in range(0, num_rows, 1 << 20):
            part = values[start : start + (1 << 20)]
            part.copy_(torch.randn(part.shape, device="cuda", dtype=DTYPE), non_blocking=True)
        self.zipf = Zipf(num_rows, 1.05, "cuda")
        self.capacity = num_rows // 20
        self.hot = self.zipf.by_popularity[: self.capacity]
        self.slot_of = torch.full((num_rows,), NO_SLOT, dtype=torch.int32, device="cuda")
        slots = torch.randperm(self.capacity, device="cuda")
        self.slot_of[self.hot] = slots.int()
        self.fast = self.host.empty_slots(self.capacity, torch.device("cuda"))
        copy_rows(self.hot, slots, source=self.host.stored, target=self.fast)
        self.outside = torch.zeros(1, dtype=torch.int32, device="cuda")
        self.copy_tbps = copy_bandwidth()
        self.link_tbps = self._link()
        recorder.add(
            "cache-table-pin", Timing((pinned - begin) * 1e3, (pinned - begin) * 1e3),
            backend="cuda", dtype=DTYPE, work=values.nbytes, unit="TB/s",
            reference="touching its pages alone", reference_ms=(touched - begin) * 1e3, error=0.0,
            note=f"{values.nbytes / 1e9:.1f} GB in huge pages, once",
        )  # fmt: skip

    def _link(self) -> float:
        """TB/s from the host in one large copy."""
        source = self.host.stored.values[:NEAR_ROWS]
        target = torch.empty_like(source, device="cuda")
        return source.nbytes / time_eager(lambda: target.copy_(source, non_blocking=True)).p50 / 1e9

    def lookup(self, ids: Tensor) -> Tensor:
        """The kernel alone."""
        return cached_rows(
            *(ids, self.slot_of),
            fast=self.fast,
            host=self.host.stored,
            outside=self.outside,
            dtype=DTYPE,
        )

    def error(self, ids: Tensor) -> float:
        """Of a lookup, against rows that the CPU gathers; nothing is computed, so it must be 0."""
        expected = self.host.stored.values[ids.cpu()].double()
        found = self.lookup(ids).cpu().double()
        return float((found - expected).norm() / expected.norm())

    def time(self, draw: Callable[[], Tensor]) -> tuple[Timing, float]:
        """Of a lookup, and its error.

        Ids are drawn anew for each of many calls: repeated ones would find missed rows in the L2
        cache, and their addresses translated.
        """
        batches = [draw()]
        batches += [draw() for _ in range(max(8, IDS_APART // len(batches[0])) - 1)]
        return time_graph([partial(self.lookup, ids) for ids in batches]), self.error(batches[0])

    def hits(self, count: int) -> None:
        """Only resident rows."""
        timing, error = self.time(partial(self.zipf.draw, count, last=self.capacity))
        moved = 2 * count * WIDTH * DTYPE.itemsize
        copied = moved / self.copy_tbps / 1e9
        self.recorder.add(
            f"{CASE}-hits-{count}", timing, backend="triton", dtype=DTYPE, work=moved, unit="TB/s",
            reference="copy in GPU memory", reference_ms=copied, error=error,
            note=f"{100 * copied / timing.p50:.0f} % of the copy's {self.copy_tbps:.2f} TB/s",
        )  # fmt: skip

    def misses(self, name: str, count: int, draw: Callable[[], Tensor]) -> None:
        """Only rows of the host."""
        timing, error = self.time(draw)
        moved = count * WIDTH * DTYPE.itemsize
        copied = moved / self.link_tbps / 1e9
        self.recorder.add(
            f"{CASE}-{name}-{count}", timing, backend="triton", dtype=DTYPE, work=moved,
            unit="TB/s", reference="copy over the link", reference_ms=copied, error=error,
            note=f"{1e3 * moved / timing.p50 / 1e9:.1f} GB/s, {100 * copied / timing.p50:.0f} % of "
            f"the link's {1e3 * self.link_tbps:.1f} GB/s",
        )  # fmt: skip

    def mixed(self, count: int) -> None:
        """By Zipf's law, against a gather by the CPU and a copy of the result."""
        timing, error = self.time(partial(self.zipf.draw, count))
        staged = torch.empty(count, WIDTH, dtype=DTYPE, pin_memory=True)
        out = torch.empty(count, WIDTH, dtype=DTYPE, device="cuda")
        batches = cycle([self.zipf.draw(count).cpu() for _ in range(8)])

        def by_cpu() -> None:
            torch.index_select(self.host.stored.values, 0, next(batches), out=staged)
            out.copy_(staged, non_blocking=True)

        reference = time_eager(by_cpu, replays=16).p50
        self.recorder.add(
            f"{CASE}-{count}", timing, backend="triton", dtype=DTYPE, work=count * 1e12,
            unit="rows/s", reference="CPU gather and copy", reference_ms=reference, error=error,
            note=f"{reference / timing.p50:.1f} times as fast; {torch.get_num_threads()} threads; "
            f"{100 * self.zipf.share(self.capacity):.1f} % hits",
        )  # fmt: skip

    def policy(self, count: int, layers: int) -> None:
        """A step with the policy at work, against the same step without it.

        A step is a lookup by `CachedTable` and the products of a model with `layers` layers, 1024
        wide; 0 layers: lookups alone, back to back.
        """
        model = nn.Sequential(
            *(
                layer
                for _ in range(layers)
                for layer in (nn.Linear(1024, 4096, False), nn.Linear(4096, 1024, False))
            )
        ).to("cuda", DTYPE)
        grow = torch.randn(WIDTH, 1024, device="cuda", dtype=DTYPE)
        batches = [self.zipf.draw(count) for _ in range(64)]
        times: dict[bool, list[float]] = {True: [], False: []}
        popularity = self.zipf.counts(TRAINING_USES).cpu()
        caches = {counting: _Cache(self.host, self.capacity, counting) for counting in times}
        for cache in caches.values():
            cache.warm(popularity.numpy())
        for _ in range(7):
            for counting, cache in caches.items():
                torch.cuda.synchronize()
                begin = time.perf_counter()
                for ids in batches:
                    rows = cache.gather(ids)
                    if layers:
                        model(rows @ grow)
                torch.cuda.synchronize()
                times[counting].append((time.perf_counter() - begin) / len(batches) * 1e3)
                cache.flush()
        on, off = (sorted(times[counting][1:]) for counting in (True, False))
        rows = caches[True].gather(batches[0]).cpu()
        error = float((rows.double() - self.host.stored.values[batches[0].cpu()].double()).norm())
        found = caches[True].statistics()
        offered = float(found["lookups"]) + float(found["batches_not_counted"])
        work = 100 * (statistics.median(on) / statistics.median(off) - 1)
        for cache in caches.values():
            cache.close()
        self.recorder.add(
            f"{CASE}-policy-{count}-l{layers}", Timing(statistics.median(on), on[-1]),
            backend="triton", dtype=DTYPE, work=count * 1e12, unit="rows/s",
            reference="the same without policy", reference_ms=statistics.median(off), error=error,
            note=f"policy {work:+.1f} % of the step; {100 * float(found['lookups']) / offered:.0f} "
            f"% of the batches counted; hits {100 * float(found['hit_rate']):.1f} %, copies "
            f"{found['copies']}, {found['copy_failures']} failed",
        )  # fmt: skip

    def announced(self, count: int) -> None:
        """A lookup through `CachedTable` of rows that were announced, against one that was not."""
        popularity = self.zipf.counts(TRAINING_USES).cpu()
        medians, rates = [], []
        for announce in (True, False):
            cache = _Cache(self.host, self.capacity, True)
            cache.warm(popularity.numpy())
            times = []
            for ids in _some(self.zipf, count, 24):
                if announce:
                    cache.announce(ids)
                cache.flush()
                times.append(_event_time(partial(cache.gather, ids)))
            cache.flush()
            medians.append(sorted(times)[len(times) // 2])
            rates.append(100 * cache.stats.unique_hits / cache.stats.unique)
            cache.close()
        self.recorder.add(
            f"{CASE}-announced-{count}", Timing(medians[0], medians[0]), backend="triton",
            dtype=DTYPE, work=count * 1e12, unit="rows/s", reference="the same, not announced",
            reference_ms=medians[1], error=0.0,
            note=f"unique hits {rates[0]:.1f} % announced, {rates[1]:.1f} % not; Python included",
        )  # fmt: skip


class _Cache(CachedTable):
    """As users have it; `counting` switches the policy's work off to see what it costs."""

    def __init__(self, host: HostRows, capacity: int, counting: bool) -> None:
        super().__init__(host, capacity, device="cuda")
        self._counting = counting

    def _note(self, ids: Tensor, ahead: Tensor | None) -> None:
        if self._counting:
            super()._note(ids, ahead)


def _some(zipf: Zipf, count: int, number: int) -> Iterator[Tensor]:
    for _ in range(number):
        yield zipf.draw(count)


def _event_time(call: Callable[[], object]) -> float:
    begin, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--rows", type=float, default=50e6, help="of the table, 512 bytes each")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    bench = Bench(int(options.rows), Recorder(options.records, options.commit))
    zipf, capacity = bench.zipf, bench.capacity
    near = torch.arange(min(NEAR_ROWS, zipf.by_popularity.numel()), device="cuda")
    near = near[bench.slot_of[near] == NO_SLOT]

    def anywhere(count: int) -> Tensor:
        cold = zipf.by_popularity[capacity:]
        return cold[torch.randint(0, len(cold), (count,), device="cuda")]

    def nearby(count: int) -> Tensor:
        return near[torch.randint(0, len(near), (count,), device="cuda")]

    for count in BATCHES:
        bench.mixed(count)
        bench.hits(count)
        bench.misses("misses", count, partial(anywhere, count))
        bench.misses("misses-within-1gb", count, partial(nearby, count))
    bench.announced(BATCHES[0])
    for layers in (12, 0):
        with torch.inference_mode():
            bench.policy(BATCHES[0], layers)


if __name__ == "__main__":
    main()
