"""The paged engine with its whole item table on the device against one with a hot cache of it.

Both engines are there at once, and the same load goes to them in turns, so that what else happens
on the machine meets both.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from genrec_serving.bench.engine_start import engine_options, start_engine, write_model
from genrec_serving.bench.engine_users import NOTHING, NOW, Load, Preset, Users, closed_loop
from genrec_serving.bench.item_popularity import ItemPopularity
from genrec_serving.bench.records import Record
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine

#: Items that a user has found.
FOUND = 10

_log = logging.getLogger(__name__)


class Side:
    """One of the two engines, and its own users: they begin alike on both sides."""

    def __init__(self, engine: ScoringEngine, users: Users) -> None:
        self.engine = engine
        self.users = users
        #: Loads of all users at once, of one user alone, and of one who has items found.
        self.together: list[Load] = []
        self.alone: list[Load] = []
        self.finding: list[Load] = []

    def run(self, count: int, seconds: float) -> None:
        """One repeat."""
        self.together.append(self._load(count, seconds))
        self.alone.append(self._load(1, seconds / 5))
        self.finding.append(self._load(1, seconds / 5, k=FOUND))

    def forget(self) -> None:
        """What ran so far was to warm up: kernels were compiled, and histories filled the pages."""
        self.together, self.alone, self.finding = [], [], []

    def _load(self, count: int, seconds: float, k: int | None = None) -> Load:
        return asyncio.run(closed_loop(self.engine, self.users, count, seconds, k=k))

    def item_cache(self) -> dict[str, Any]:
        """What the engine says about its cache."""
        found: dict[str, Any] = asyncio.run(self.engine.statistics())["item_cache"]
        return found


def compare(
    preset: Preset,
    folder: Path,
    *,
    share: float,
    zipf: float,
    users: int,
    seconds: float,
    repeats: int,
    dtype: str | None,
    processes: int,
) -> list[Record]:
    """Records of the cached engine with the other one as reference; rate and p95 are medians, too.

    Args:
        preset: model and load.
        folder: for the model, which is written there.
        share: of the table's rows that has slots.
        zipf: exponent of the items' popularity; 0: all alike.
        users: at once.
        seconds: of each load.
        repeats: loads of each engine.
        dtype, processes: as in `VllmOptions`.
    """
    items = ItemPopularity(preset.items, zipf)
    artifact = write_model(preset, folder, items)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU)"
    with ExitStack() as stack:
        sides = []
        for item_cache in ("off", f"{share:g}"):
            chosen = engine_options(preset, dtype=dtype, processes=processes, item_cache=item_cache)
            engine = start_engine(artifact, chosen)
            stack.callback(engine.close)
            sides.append(Side(engine, Users(artifact, preset, users, items=items)))
        whole, cached = sides
        strangers = Users(artifact, preset, 0, items=items)
        events = preset.mean_history
        error = asyncio.run(difference(whole.engine, cached.engine, strangers, events))
        for side in sides:
            side.run(users, seconds / 2)
            side.forget()
        before = cached.item_cache()
        for repeat in range(repeats):
            for side in sides if repeat % 2 == 0 else reversed(sides):
                side.run(users, seconds)
        after = cached.item_cache()
    seen = cache_note(before, after)
    _log.info("%s", seen)
    return [
        Record(
            case=f"engine-item-cache-{round(100 * share)}{name}", backend="vllm",
            dtype=chosen.dtype or "float32", gpu=gpu,
            p50_ms=quantile(loads, 0.5), p95_ms=quantile(loads, 0.95),
            rate=median(load.requests_per_s for load in loads), unit="requests/s",
            reference="whole table on the device", reference_ms=quantile(others, 0.5), error=error,
            note=f"{preset.case}, {count} users at once, {processes} processes; "
            f"{ratio_note(loads, others)}; items by Zipf {zipf:g}; {seen}",
        )
        for name, count, loads, others in (
            ("", users, cached.together, whole.together),
            ("-alone", 1, cached.alone, whole.alone),
            ("-find", 1, cached.finding, whole.finding),
        )
    ]  # fmt: skip


async def difference(
    engine: ScoringEngine, other: ScoringEngine, users: Users, events: int
) -> float:
    """Largest difference of a task logit or of the best scores between two engines.

    Each is a share of its spread.
    """
    worst = 0.0
    for length in (0, 1, 65, events):
        rows = users.cold(length)
        rank = RankCall(rows=rows, now=NOW, candidates=users.candidates())
        find = RecommendCall(rows=rows, now=NOW, k=FOUND, exclude=NOTHING)
        ranked = [(await one.rank(rank)).task_logits for one in (engine, other)]
        # Of equally good items either may come first; the scores are the same.
        best = [(await one.recommend(find)).scores for one in (engine, other)]
        for found, expected in (ranked, best):
            spread = max(float(np.ptp(expected)), 1e-9)
            worst = max(worst, float(np.abs(found - expected).max()) / spread)
    return worst


def quantile(loads: list[Load], share: float) -> float:
    """Median over repeats of a quantile of the latency, milliseconds."""
    return median(load.quantile(share) for load in loads)


def ratio_note(loads: list[Load], others: list[Load]) -> str:
    """The p50 of each repeat against that of the other engine's."""
    ratios = sorted(
        load.quantile(0.5) / other.quantile(0.5) for load, other in zip(loads, others, strict=True)
    )
    overall = quantile(loads, 0.5) / quantile(others, 0.5)
    return (
        f"p50 {100 * (overall - 1):+.1f} % ({100 * (ratios[0] - 1):+.1f} to "
        f"{100 * (ratios[-1] - 1):+.1f} in {len(ratios)} repeats)"
    )


def cache_note(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What the cache did between two moments.

    Raises:
        RuntimeError: there is no cache: nothing was compared.
    """
    if after["state"] != "on":
        raise RuntimeError(f"the item table is not cached: {after}")
    done = {
        name: after[name] - before[name]
        for name in ("lookups", "accesses", "hits", "unique", "unique_hits", "copies")
    }
    skipped = after["batches_not_counted"] - before["batches_not_counted"]
    return (
        f"{after['capacity']} slots, hits {done['hits'] / max(1, done['accesses']):.1%} by access, "
        f"{done['unique_hits'] / max(1, done['unique']):.1%} by unique id; {done['lookups']} "
        f"passes counted, {skipped} batches not; {done['copies']} rows copied"
        f"{'; ' + after['problem'] if after['problem'] else ''}"
    )
