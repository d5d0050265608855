"""Ways to read missed rows, against each other in one run: which is the fastest on this machine?

python -m genrec_cache.bench.miss_paths --commit $(git rev-parse --short HEAD)

A large table is in the host's memory, as in `genrec_cache.bench.lookup`, and rows all over it are
asked for. Rows of the records are called `cache-miss-{way}-{ids}`:

- `direct-{bytes}x{warps}`: the lookup's kernel, by what a program gathers and its warps.
- `order-{bins}`: misses first, neighbours in the table together; the ordering is in the time.
- `order-{bins}-ready`: the same with the order made beforehand: what ordering could bring.
- `sorted-ready`: the same with ids in full order.
- `staged-{share}`: the CPU gathers that share of the rows and copies them, while the kernel reads
  the others.
- `wide`: the same memory as rows of 2,048 bytes. Where that is much faster, rows a second are the
  limit, and not bytes.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor

from genrec_cache.bench.lookup import DTYPE, RECORDS, WIDTH
from genrec_cache.host_memory import allocate
from genrec_cache.host_rows import HostRows
from genrec_kernels.bench.paged_measure import Recorder, Timing, time_eager, time_graph
from genrec_kernels.cached_rows import NO_SLOT, StoredRows, cached_rows, misses_first

BATCHES = (25_600, 262_144)
SHAPES = ((2048, 1), (8192, 1), (8192, 4), (32_768, 8))
BINS = (64, 4096)
SHARES = (0.25, 0.5, 0.75)
#: Ids between two lookups of one batch, so that neither rows nor addresses are found again.
IDS_APART = 1_000_000
#: Rows of what the CPU gathers before it is copied on.
STAGED_ROWS = 8192

log = logging.getLogger("bench")


class MissBench:
    """A table without slots, and ids all over it.

    Args:
        num_rows: of the table.
        recorder: where figures go; None measures nothing, for tests.
        device: of the rows that come out.
    """

    def __init__(self, num_rows: int, recorder: Recorder | None, device: str = "cuda") -> None:
        self.device = device
        self.recorder = recorder
        self.host = HostRows(allocate(num_rows, WIDTH, DTYPE))
        if device == "cuda":
            assert self.host.pin(), self.host.problem
        for first in range(0, num_rows, 1 << 20):
            part = self.host.stored.values[first : first + (1 << 20)]
            part.copy_(torch.randn(part.shape, device=device, dtype=DTYPE))
        self.slot_of = torch.full((num_rows,), NO_SLOT, dtype=torch.int32, device=device)
        self.outside = torch.zeros(1, dtype=torch.int32, device=device)
        self._generator = torch.Generator(device).manual_seed(0)

    def draw(self, count: int, *, num_rows: int | None = None) -> Tensor:
        """int64 [count] on the device."""
        most = len(self.slot_of) if num_rows is None else num_rows
        return torch.randint(0, most, (count,), generator=self._generator, device=self.device)

    def direct(self, ids: Tensor, *, num_bytes: int = 8192, num_warps: int = 4) -> Tensor:
        """The kernel alone, of a shape."""
        from genrec_kernels.triton import cached_rows as kernels

        values = self.host.stored.values
        return kernels.cached_rows(
            *(ids, self.slot_of, values[:0], values, None, None, self.outside, DTYPE),
            num_bytes=num_bytes,
            num_warps=num_warps,
        )

    def ordered(self, ids: Tensor, order: Tensor | None, *, bins: int = 1) -> Tensor:
        """The kernel in an order, which is made here where it is not given."""
        if order is None:
            order = misses_first(ids, self.slot_of, bins=bins)
        return self._lookup(ids, self.host.stored, self.slot_of, order)

    def wide(self, ids: Tensor) -> Tensor:
        """Rows of 2,048 bytes, as many as there are in the same memory."""
        values = self.host.stored.values
        rows = len(values) // 4
        return self._lookup(
            ids, StoredRows(values[: 4 * rows].view(rows, 4 * WIDTH)), self.slot_of[:rows], None
        )

    def _lookup(
        self, ids: Tensor, host: StoredRows, slot_of: Tensor, order: Tensor | None
    ) -> Tensor:
        fast = StoredRows(torch.empty(0, host.values.shape[1], dtype=DTYPE, device=self.device))
        return cached_rows(
            *(ids, slot_of), fast=fast, host=host, outside=self.outside, dtype=DTYPE, order=order,
            backend="triton",
        )  # fmt: skip

    def measure(self, count: int, bandwidth: float) -> None:
        """All ways with batches of so many ids; `bandwidth` of the link in bytes a millisecond."""
        batches = [self.draw(count) for _ in range(max(4, IDS_APART // count))]
        error = self.error(batches[0])
        for num_bytes, num_warps in SHAPES:
            way = partial(self.direct, num_bytes=num_bytes, num_warps=num_warps)
            timing = time_graph([partial(way, ids) for ids in batches], replays=7)
            self._add(f"direct-{num_bytes}x{num_warps}", count, timing, bandwidth, error)
        for bins in BINS:
            calls: Sequence[Callable[[], Tensor]] = [
                partial(self.ordered, ids, None, bins=bins) for ids in batches
            ]
            self._add(f"order-{bins}", count, time_graph(calls, replays=7), bandwidth, error)
            orders = [misses_first(ids, self.slot_of, bins=bins) for ids in batches]
            calls = [
                partial(self.ordered, ids, order)
                for ids, order in zip(batches, orders, strict=True)
            ]
            self._add(f"order-{bins}-ready", count, time_graph(calls, replays=7), bandwidth, error)
        ordered = [ids.sort().values for ids in batches]
        timing = time_graph([partial(self.direct, ids) for ids in ordered], replays=7)
        self._add("sorted-ready", count, timing, bandwidth, error)
        for share in SHARES:
            timing = time_eager(Staged(self, batches, share), replays=9)
            self._add(f"staged-{share:g}", count, timing, bandwidth, error)
        some = [self.draw(count // 4, num_rows=len(self.slot_of) // 4) for _ in batches]
        timing = time_graph([partial(self.wide, ids) for ids in some], replays=7)
        self._add("wide", count // 4, timing, bandwidth, error, row_bytes=4 * WIDTH * 2)

    def error(self, ids: Tensor) -> float:
        """Of any way to read these rows: nothing is computed, so it must be 0."""
        expected = self.host.stored.values[ids.cpu()]
        staged = Staged(self, [ids], 0.5)
        staged()
        ways = (
            *(self.direct(ids, num_bytes=size, num_warps=warps) for size, warps in SHAPES),
            *(self.ordered(ids, None, bins=bins) for bins in BINS),
            staged.out,
        )
        return max(float((way.cpu() != expected).float().mean()) for way in ways)

    def _add(
        self,
        name: str,
        count: int,
        timing: Timing,
        bandwidth: float,
        error: float,
        *,
        row_bytes: int = WIDTH * 2,
    ) -> None:
        assert self.recorder is not None
        moved = count * row_bytes
        self.recorder.add(
            f"cache-miss-{name}-{count}", timing, backend="triton", dtype=DTYPE, work=moved,
            unit="TB/s", reference="copy over the link", reference_ms=moved / bandwidth,
            error=error,
            note=f"{moved / timing.p50 / 1e6:.1f} GB/s, "
            f"{100 * moved / bandwidth / timing.p50:.0f} % of the link's "
            f"{bandwidth / 1e6:.1f} GB/s; {count / timing.p50 / 1e3:.0f} M rows/s",
        )  # fmt: skip


class Staged:
    """The CPU gathers a share of each batch and copies it; the kernel reads the others meanwhile.

    The ids are on the CPU beforehand, as a server's are.

    Args:
        bench: the table.
        batches: int64 [N] each; the next one is read at each call.
        share: of the rows, in (0, 1).
    """

    def __init__(self, bench: MissBench, batches: Sequence[Tensor], share: float) -> None:
        self._bench = bench
        count = len(batches[0])
        self._direct = count - round(share * count)
        self._batches = cycle([(ids, ids.cpu()) for ids in batches])
        cuda = bench.device == "cuda"
        self._stage = torch.empty(count - self._direct, WIDTH, dtype=DTYPE, pin_memory=cuda)
        self._side = torch.cuda.Stream() if cuda else None  # type: ignore[no-untyped-call]
        #: Rows [N, W] of the last call.
        self.out = torch.empty(count, WIDTH, dtype=DTYPE, device=bench.device)

    def __call__(self) -> None:
        """Read a batch."""
        there, here = next(self._batches)
        if self._side is not None:
            current = torch.cuda.current_stream()
            self._side.wait_stream(current)
            with torch.cuda.stream(self._side):
                self._read_direct(there)
            self._gather(here)
            current.wait_stream(self._side)
        else:
            self._read_direct(there)
            self._gather(here)

    def _read_direct(self, ids: Tensor) -> None:
        self.out[: self._direct] = self._bench.direct(ids[: self._direct])

    def _gather(self, ids: Tensor) -> None:
        rest, staged = ids[self._direct :], self._stage
        if self._side is not None:
            # Nothing of the last call may still be on its way out of the staged rows.
            torch.cuda.current_stream().synchronize()
        for first in range(0, len(rest), STAGED_ROWS):
            part = slice(first, min(first + STAGED_ROWS, len(rest)))
            torch.index_select(self._bench.host.stored.values, 0, rest[part], out=staged[part])
            self.out[self._direct :][part].copy_(staged[part], non_blocking=True)


def main() -> None:
    """Parse, measure, append."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--rows", type=float, default=50e6, help="of the table, 512 bytes each")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    begin = time.perf_counter()
    bench = MissBench(int(options.rows), Recorder(options.records, options.commit))
    source = bench.host.stored.values[:2_000_000]
    target = torch.empty_like(source, device="cuda")
    link = source.nbytes / time_eager(lambda: target.copy_(source, non_blocking=True)).p50
    log.info("table ready after %.1f s", time.perf_counter() - begin)
    for count in BATCHES:
        bench.measure(count, link)
    log.info("all in %.1f s", time.perf_counter() - begin)


if __name__ == "__main__":
    main()
