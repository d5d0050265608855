"""Load on the paged engine itself, without HTTP, against plain PyTorch in the same run.

    python -m genrec_serving.bench.engine_load --commit $(git rev-parse --short HEAD) --preset owner

With ``--item-cache 0.1`` it compares the engine to itself instead: the whole item table on the
device, and a hot cache of that share (see `item_cache_load`).

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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genrec_kernels.dispatch import Backend, use_backend
from genrec_model.features.rows import Rows, collate, with_candidates
from genrec_model.hstu import HSTU
from genrec_serving.bench.engine_start import engine_options, start_engine, write_model
from genrec_serving.bench.engine_users import (
    NOW,
    PRESETS,
    Preset,
    Users,
    closed_loop,
    cold_alone,
)
from genrec_serving.bench.item_cache_load import compare
from genrec_serving.bench.item_popularity import ItemPopularity
from genrec_serving.bench.records import Record, append
from genrec_serving.engines.interface import RankCall, ScoringEngine
from genrec_serving.vllm_plugin.compute import DTYPES

RECORDS = Path(__file__).parents[2] / "bench" / "records.csv"

_log = logging.getLogger(__name__)


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
    model: Callable[[Rows], torch.Tensor],
    device: torch.device,
    users: Users,
    events: int,
    batch: int,
    backend: Backend | None,
    runs: int = 5,
) -> tuple[float, float]:
    """Milliseconds of a whole batch from scratch, and peak memory in MiB (0 on a CPU)."""
    rows = collate(
        [with_candidates(users.cold(events), users.candidates(), now=NOW) for _ in range(batch)]
    )
    cuda = device.type == "cuda"
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
    parser.add_argument("--at-once", type=int, default=None, help="of the users; default: all")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--fp8-pages", action="store_true", help="keys and values in eight bits")
    parser.add_argument("--fp8-linear", action="store_true", help="linear layers in eight bits")
    parser.add_argument("--compile", action="store_true", help="time torch.compile beside eager")
    parser.add_argument("--item-zipf", type=float, default=0.0, help="exponent; 0: all items alike")
    parser.add_argument(
        "--item-cache", type=float, default=None, help="compare this share to the whole table"
    )
    parser.add_argument("--repeats", type=int, default=4, help="of that comparison")
    parser.add_argument("--records", type=Path, default=RECORDS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    logging.getLogger("vllm").setLevel(logging.ERROR)
    preset = PRESETS[options.preset]
    with tempfile.TemporaryDirectory() as folder:
        if options.item_cache is None:
            measure(preset, options, Path(folder) / "artifact")
        else:
            records = compare(
                preset, Path(folder) / "artifact", share=options.item_cache,
                zipf=options.item_zipf, users=options.users, seconds=options.seconds,
                repeats=options.repeats, dtype=options.dtype, processes=options.processes,
            )  # fmt: skip
            append(options.records, records, commit=options.commit)


def measure(preset: Preset, options: argparse.Namespace, folder: Path) -> None:
    """Start the engine, check it, load it, and compare."""
    items = ItemPopularity(preset.items, options.item_zipf)
    artifact = write_model(preset, folder, items)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    chosen = engine_options(
        preset,
        dtype=options.dtype,
        processes=options.processes,
        item_cache="auto",
        fp8_pages=options.fp8_pages,
        fp8_linear=options.fp8_linear,
    )
    model = artifact.load_model().to(device)
    events = preset.mean_history
    engine = start_engine(artifact, chosen)
    try:
        users = Users(artifact, preset, options.users, items=items)
        error = asyncio.run(error_of(engine, model, users, events))
        _log.info("error %.2g of the spread", error)
        # Graphs are captured and histories fill the cache before anything is timed.
        load = partial(closed_loop, engine, users, options.users, at_once=options.at_once)
        first = asyncio.run(load(seconds=options.seconds / 2))
        warm = asyncio.run(load(seconds=options.seconds))
        strangers = asyncio.run(load(seconds=options.seconds, cold=True))
        alone = asyncio.run(closed_loop(engine, users, 1, options.seconds / 5))
        asyncio.run(cold_alone(engine, users, events, 3))
        cold = asyncio.run(cold_alone(engine, users, events, 10))
    finally:
        engine.close()
    _log.info("first %.0f requests/s, warm %.0f", first.requests_per_s, warm.requests_per_s)

    dtype = chosen.dtype or "float32"
    model = model.to(DTYPES[dtype])
    batch = preset.batch
    stages: list[tuple[str, float, float, float]] = []
    ways: list[tuple[str, Callable[[Rows], torch.Tensor], Backend | None]] = [
        ("reference", model, "reference")
    ]
    if options.compile:  # all but attention, which is one operator to it
        ways.append(("reference, torch.compile", torch.compile(model), "reference"))
    if cuda:
        ways.append(("kernels", model, None))
    for name, run, backend in ways:
        ms, peak = stateless_ms(run, device, users, events, batch, backend)
        stages.append((name, ms, batch / ms * 1e3, peak))
        _log.info("plain PyTorch, %s: %.1f ms for %d, %.0f MiB", name, ms, batch, peak)
    shared: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name() if cuda else "none (CPU)",
        "dtype": dtype,
    }
    base_ms = stages[0][1] / batch
    engines = f"{options.processes} processes" if options.processes else "in process"
    if options.fp8_pages:
        engines += ", fp8 pages"
    if options.fp8_linear:
        engines += ", fp8 linear layers"
    at_once = options.users if options.at_once is None else options.at_once
    lengths = f"{events} events"
    if preset.spread:
        lengths += f" on average, up to {preset.max_history}"
    records = [
        Record(
            **shared, case=f"{preset.case}-{name}", backend="vllm", p50_ms=found.quantile(0.5),
            p95_ms=found.quantile(0.95), rate=found.requests_per_s, unit="requests/s",
            reference=f"plain PyTorch eager, batch {batch}, a request", reference_ms=base_ms,
            error=error,
            note=f"{engines}, {note}; {found.cached_share:.0%} of the rows cached; "
            f"p99 {found.quantile(0.99):.1f} ms",
        )
        for name, found, note in (
            ("warm", warm, f"{at_once} of {options.users} users at once"),
            ("strangers", strangers, f"{at_once} new users at once, {lengths}"),
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
