"""Load on the paged engine itself, without HTTP, against plain PyTorch in the same run.

    python -m genrec_serving.bench.engine_load --commit $(git rev-parse --short HEAD) --preset owner

Returning users: each comes back with some new events and a list of candidates to rank, and waits
for the answer before it comes back again. The weights are random: only speed means something, and
that the engine says what plain PyTorch says.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from genrec_kernels.dispatch import Backend, use_backend
from genrec_model.artifact import Artifact
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import UserRows, collate, with_candidates
from genrec_model.hstu import HSTU
from genrec_serving.bench.random_model import write_random_model
from genrec_serving.bench.records import Record, append
from genrec_serving.encoding import user_rows
from genrec_serving.engines.interface import RankCall, ScoringEngine
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.vllm_processes import VllmProcesses
from genrec_serving.histories import IndexedHistory
from genrec_serving.vllm_plugin.compute import DTYPES

NOW = 1_700_000_000
RECORDS = Path(__file__).parents[2] / "bench" / "records.csv"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and who asks it.

    Args:
        case: of the records.
        items, layers, heads, width, max_history: of the model.
        candidates: that a request ranks.
        new_events: that a user returns with.
        kv_cache_mb: memory of the pages.
    """

    case: str
    items: int
    layers: int
    heads: int
    width: int
    max_history: int
    candidates: int
    new_events: int
    kv_cache_mb: int


PRESETS = {
    "owner": Preset(
        case="engine-owner-table", items=50_000, layers=12, heads=16, width=1024,
        max_history=2047, candidates=100, new_events=8, kv_cache_mb=24_000,
    ),
    "dlrmv3": Preset(
        case="engine-dlrmv3", items=100_000, layers=5, heads=4, width=512, max_history=16_383,
        candidates=2048, new_events=8, kv_cache_mb=48_000,
    ),
    "small": Preset(
        case="engine-small", items=1000, layers=2, heads=2, width=32, max_history=255,
        candidates=20, new_events=2, kv_cache_mb=64,
    ),
}  # fmt: skip


class Users:
    """Histories that grow, seeded."""

    def __init__(self, artifact: Artifact, preset: Preset, count: int) -> None:
        self._config = artifact.config
        self._preset = preset
        self._random = np.random.default_rng(0)
        self._histories = [self._new(preset.max_history * 3 // 4) for _ in range(count)]
        # Drawn beforehand: a draw takes as long as a request.
        self._lists = [self._draw() for _ in range(256)]

    def _new(self, events: int) -> IndexedHistory:
        gaps = np.exp(self._random.random(events) * 11).astype(np.int64)
        return IndexedHistory(
            items=self._random.integers(NUM_RESERVED, self._config.num_items, events),
            actions=self._random.integers(NUM_RESERVED_ACTIONS, self._config.num_actions, events),
            timestamps=NOW - gaps[::-1].cumsum()[::-1],
        )

    def cold(self, events: int) -> UserRows:
        """Somebody new with a whole history."""
        return user_rows(self._new(events), self._config, now=NOW)

    def come_back(self, user: int) -> UserRows:
        """A user with some events more than last time."""
        old, new = self._histories[user], self._new(self._preset.new_events)
        self._histories[user] = IndexedHistory(
            items=np.concatenate([old.items, new.items]),
            actions=np.concatenate([old.actions, new.actions]),
            # Each visit some seconds after the last, all of them before now.
            timestamps=np.concatenate([old.timestamps, old.timestamps[-1:].repeat(len(new.items))]),
        )
        return user_rows(self._histories[user], self._config, now=NOW)

    def candidates(self) -> npt.NDArray[np.int64]:
        """What a request ranks: no item twice."""
        return self._lists[int(self._random.integers(len(self._lists)))]

    def _draw(self) -> npt.NDArray[np.int64]:
        ids = self._random.choice(
            self._config.num_items - NUM_RESERVED, self._preset.candidates, replace=False
        )
        return ids.astype(np.int64) + NUM_RESERVED


@dataclass(frozen=True)
class Load:
    """What a load came to."""

    latencies_ms: list[float]
    requests_per_s: float
    cached_share: float

    def quantile(self, share: float) -> float:
        """Of the latencies."""
        return float(np.quantile(self.latencies_ms, share))


async def closed_loop(engine: ScoringEngine, users: Users, count: int, seconds: float) -> Load:
    """`count` users who come back as soon as they are answered."""
    latencies: list[float] = []
    cached = total = 0
    end = time.perf_counter() + seconds

    async def visit(user: int) -> None:
        nonlocal cached, total
        while time.perf_counter() < end:
            rows, candidates = users.come_back(user), users.candidates()
            begin = time.perf_counter()
            found = await engine.rank(RankCall(rows=rows, now=NOW, candidates=candidates))
            latencies.append((time.perf_counter() - begin) * 1e3)
            cached += found.cached_rows
            total += len(rows.items)

    begin = time.perf_counter()
    await asyncio.gather(*(visit(user) for user in range(count)))
    return Load(latencies, len(latencies) / (time.perf_counter() - begin), cached / max(total, 1))


async def cold_alone(engine: ScoringEngine, users: Users, events: int, visits: int) -> Load:
    """New users, one after the other."""
    latencies = []
    begin = time.perf_counter()
    for _ in range(visits):
        rows, candidates = users.cold(events), users.candidates()
        start = time.perf_counter()
        await engine.rank(RankCall(rows=rows, now=NOW, candidates=candidates))
        latencies.append((time.perf_counter() - start) * 1e3)
    return Load(latencies, visits / (time.perf_counter() - begin), 0.0)


async def error_of(engine: ScoringEngine, model: HSTU, users: Users, events: int) -> float:
    """Largest difference of a task logit from plain PyTorch in float32, over their spread."""
    worst = 0.0
    for length in (0, 1, 63, 64, 65, events // 2, events):
        rows, candidates = users.cold(length), users.candidates()
        with use_backend("reference"):
            expected = model.score(collate([with_candidates(rows, candidates, now=NOW)]))[0].tasks
        for _ in range(2):  # computed, and from the cache
            call = RankCall(rows=rows, now=NOW, candidates=candidates)
            found = torch.from_numpy((await engine.rank(call)).task_logits)
            spread = float(expected.max() - expected.min())
            worst = max(worst, float((found - expected).abs().max()) / max(spread, 1e-9))
    return worst


def stateless_ms(
    model: HSTU, users: Users, events: int, batch: int, backend: Backend | None, runs: int = 5
) -> tuple[float, float]:
    """Milliseconds of a whole batch from scratch, and peak memory in MiB (0 on a CPU)."""
    rows = collate(
        [with_candidates(users.cold(events), users.candidates(), now=NOW) for _ in range(batch)]
    )
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    times = []
    with torch.inference_mode(), use_backend(backend):
        for _ in range(runs + 2):
            begin = time.perf_counter()
            float(model(rows)[-1, 0])  # waits for the result
            times.append((time.perf_counter() - begin) * 1e3)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else 0.0
    return float(np.median(times[2:])), peak


def main() -> None:
    """Measure one preset and append its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commit", required=True)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--users", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("vllm").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        measure(PRESETS[options.preset], options, Path(folder) / "artifact")


def measure(preset: Preset, options: argparse.Namespace, folder: Path) -> None:
    """Start the engine, check it, load it, and compare."""
    artifact = write_random_model(
        folder, items=preset.items, layers=preset.layers, width=preset.width, heads=preset.heads,
        max_history=preset.max_history, chunk=min(256, preset.max_history), onnx=False,
    )  # fmt: skip
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    chosen = VllmOptions(
        kv_cache_mb=preset.kv_cache_mb,
        max_requests=128,
        max_step_rows=8192,
        dtype=options.dtype,
        processes=options.processes,
    ).for_device(cuda=cuda)
    model = artifact.load_model().to(device)
    events = preset.max_history * 3 // 4
    start = VllmProcesses if options.processes else VllmEngine
    engine: ScoringEngine = start(artifact, version="1", options=chosen)
    try:
        users = Users(artifact, preset, options.users)
        error = asyncio.run(error_of(engine, model, users, events))
        _log.info("error %.2g of the spread", error)
        # Graphs are captured and histories fill the cache before anything is timed.
        first = asyncio.run(closed_loop(engine, users, options.users, options.seconds / 2))
        warm = asyncio.run(closed_loop(engine, users, options.users, options.seconds))
        alone = asyncio.run(closed_loop(engine, users, 1, options.seconds / 5))
        asyncio.run(cold_alone(engine, users, events, 3))
        cold = asyncio.run(cold_alone(engine, users, events, 10))
    finally:
        engine.close()
    _log.info("first %.0f requests/s, warm %.0f", first.requests_per_s, warm.requests_per_s)

    dtype = chosen.dtype or "float32"
    model = model.to(DTYPES[dtype])
    batch = 8 if cuda else 2
    stages: list[tuple[str, float, float, float]] = []
    backends: list[tuple[str, Backend | None]] = [("reference", "reference")]
    for name, backend in [*backends, ("kernels", None)] if cuda else backends:
        ms, peak = stateless_ms(model, users, events, batch, backend)
        stages.append((name, ms, batch / ms * 1e3, peak))
        _log.info("plain PyTorch, %s attention: %.1f ms for %d, %.0f MiB", name, ms, batch, peak)
    shared: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if cuda else "none (CPU)",
        "dtype": dtype,
    }
    base_ms = stages[0][1] / batch
    engines = f"{options.processes} processes" if options.processes else "in process"
    records = [
        Record(
            **shared, case=f"{preset.case}-{name}", backend="vllm", p50_ms=load.quantile(0.5),
            p95_ms=load.quantile(0.95), rate=load.requests_per_s, unit="requests/s",
            reference=f"plain PyTorch eager, batch {batch}, a request", reference_ms=base_ms,
            error=error,
            note=f"{engines}, {note}; {load.cached_share:.0%} of the rows cached",
        )
        for name, load, note in (
            ("warm", warm, f"{options.users} users at once"),
            ("alone", alone, "one returning user"),
            ("cold", cold, f"one new user of {events} events"),
        )
    ]  # fmt: skip
    records += [
        Record(
            **shared, case=f"{preset.case}-stateless", backend=name, p50_ms=ms, p95_ms=ms,
            rate=rate, unit="requests/s", note=f"batch {batch}; peak {peak:.0f} MiB",
        )
        for name, ms, rate, peak in stages
    ]  # fmt: skip
    append(options.records, records, commit=options.commit)
    for record in records:
        _log.info(
            "%s %s: p50 %.2f ms, p95 %.2f ms, %.0f %s", record.case, record.backend,
            record.p50_ms, record.p95_ms, record.rate, record.unit,
        )  # fmt: skip


if __name__ == "__main__":
    main()
