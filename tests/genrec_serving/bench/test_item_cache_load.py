"""Both engines get the same load in turns, and the records say what came of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_serving.bench import item_cache_load
from genrec_serving.bench.engine_users import PRESETS
from genrec_serving.bench.item_cache_load import cache_note, compare
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine
from genrec_serving.engines.vllm_options import VllmOptions

PRESET = replace(PRESETS["small"], items=200, layers=1, width=16, max_history=20, candidates=5)


class Slow(ScoringEngine):
    """Takes its time: twice as much with a cache."""

    def __init__(self, options: VllmOptions, order: list[str]) -> None:
        self.cached = options.item_cache != "off"
        self.lookups = 0
        self.closed = False
        self._order = order
        self._options = options

    async def rank(self, call: RankCall) -> Scored:
        self._order.append(self._options.item_cache)
        self.lookups += 2
        await asyncio.sleep(0.01 if self.cached else 0.005)
        count = len(call.candidates)
        logits = np.arange(count, dtype=np.float32)[:, None] + (0.02 if self.cached else 0)
        return Scored(items=call.candidates, scores=logits[:, 0], task_logits=logits, cached_rows=3)

    async def recommend(self, call: RecommendCall) -> Scored:
        items = np.arange(call.k)
        return await self.rank(RankCall(rows=call.rows, now=call.now, candidates=items))

    async def statistics(self) -> dict[str, object]:
        if not self.cached:
            return {"item_cache": {"state": "off"}}
        done = {"accesses": 10, "hits": 8, "unique": 4, "unique_hits": 3, "copies": 1}
        return {
            "item_cache": {
                "state": "on", "capacity": 20, "problem": "", "batches_not_counted": 0,
                "lookups": self.lookups, **{k: v * self.lookups for k, v in done.items()},
            }
        }  # fmt: skip

    def close(self) -> None:
        self.closed = True


def test_a_cache_is_compared_to_the_whole_table(tmp_path, monkeypatch) -> None:
    order: list[str] = []
    engines: list[Slow] = []

    def start(_: Artifact, options: VllmOptions) -> Slow:
        engines.append(Slow(options, order))
        return engines[-1]

    monkeypatch.setattr(item_cache_load, "start_engine", start)
    both, alone, find = compare(
        PRESET, tmp_path / "artifact", share=0.1, zipf=1.05, users=3, seconds=0.2, repeats=3,
        dtype=None, processes=0,
    )  # fmt: skip
    assert both.case == "engine-item-cache-10"
    assert (alone.case, find.case) == (f"{both.case}-alone", f"{both.case}-find")
    for record in (both, alone, find):
        assert record.reference_ms is not None
        assert 1.3 < record.p50_ms / record.reference_ms < 3
        assert record.p50_ms <= record.p95_ms
        assert record.error == pytest.approx(0.02 / 4, rel=0.01)
        assert "in 3 repeats" in record.note
        assert "hits 80.0% by access, 75.0% by unique id" in record.note
    assert both.rate > 1.5 * alone.rate
    # Neither comes first every time.
    turns = [name for name, before in zip(order[1:], order, strict=False) if name != before]
    assert turns.count("off") + turns.count("0.1") >= 5
    assert all(engine.closed for engine in engines)
    assert [engine.cached for engine in engines] == [False, True]


def test_an_engine_without_a_cache_is_no_comparison() -> None:
    with pytest.raises(RuntimeError, match="not cached"):
        cache_note({}, {"state": "failed", "problem": "no memory"})
