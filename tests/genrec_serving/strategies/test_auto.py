"""The measured decision between two engines, with a clock that the engines turn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genrec_model.features.rows import history_rows
from genrec_model.hstu import HSTUConfig
from genrec_serving.engines.interface import RankCall, Scored, ScoringEngine
from genrec_serving.strategies.auto import AutoChooser
from genrec_serving.strategies.costs import Work, measure_costs
from genrec_serving.strategies.returning import ReturningHistories

CONFIG = HSTUConfig(
    num_items=500, num_actions=4, tasks=(), hidden_size=8, num_layers=1, num_heads=1, head_dim=8,
    max_history=300, chunk_size=16, norm_length=300,
)  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Engine(ScoringEngine):
    """Takes as long as it says, by the clock; with a cache if `row_s` counts new rows only."""

    def __init__(
        self, clock: Clock, name: str, *, call_s: float, row_s: float, caches: bool = False
    ) -> None:
        self.name = name
        self._clock, self._call_s, self._row_s, self._caches = clock, call_s, row_s, caches
        self._seen: set[bytes] = set()
        self.calls = 0

    async def recommend(self, call: Any) -> Scored:
        return await self.rank(call)

    async def rank(self, call: Any) -> Scored:
        self.calls += 1
        key = call.rows.items.tobytes() + call.rows.timestamps.tobytes()
        rows = 0 if self._caches and key in self._seen else len(call.rows.items) - 1
        self._seen.add(key)
        candidates = len(call.candidates) if isinstance(call, RankCall) else 10
        self._clock.now += self._call_s + self._row_s * rows + candidates * 1e-6
        return Scored(items=np.arange(1), scores=np.zeros(1), task_logits=np.zeros((1, 0)))


def rows(events: int, seed: int = 0) -> Any:
    rng = np.random.default_rng((events, seed))
    items = rng.integers(3, 500, events)
    return history_rows(items, np.full(events, 2), np.arange(events), now=5)


async def chooser(second_call_s: float = 0.002, **options: Any) -> AutoChooser:
    clock = Clock()
    paged = Engine(clock, "vllm", call_s=0.005, row_s=1e-4, caches=True)
    second = Engine(clock, "onnxruntime", call_s=second_call_s, row_s=1e-4)
    made = AutoChooser(paged, second, second_memory_mb=12.34, clock=clock, **options)
    await made.measure(CONFIG)
    return made


async def test_costs_are_what_was_measured() -> None:
    clock = Clock()
    engine = Engine(clock, "vllm", call_s=0.005, row_s=1e-4, caches=True)
    costs = await measure_costs(engine, CONFIG, budget_s=60, clock=clock)
    assert costs.lengths == (0, 16, 64, 256, 300)
    assert costs.candidates == (1, 100, 497)
    cold = costs.estimate_ms(Work(events=100, cached=0, candidates=100))
    assert cold == pytest.approx(5 + 10 + 0.1)
    warm = costs.estimate_ms(Work(events=100, cached=100, candidates=100))
    assert warm == pytest.approx(5 + 0.1)
    half = costs.estimate_ms(Work(events=100, cached=50, candidates=100))
    assert half == pytest.approx((cold + warm) / 2)
    assert costs.estimate_ms(Work(events=0, cached=0, candidates=None)) == pytest.approx(5.01)
    assert costs.table()[1]["rank_100_ms"] == {"cold": 6.7, "warm": 5.1}


async def test_measuring_ends_in_time() -> None:
    clock = Clock()
    engine = Engine(clock, "vllm", call_s=1.0, row_s=0.0)
    costs = await measure_costs(engine, CONFIG, budget_s=17, clock=clock)
    assert costs.lengths == (0, 16)
    assert engine.calls == 2 * 4 * 4
    assert costs.covers(Work(events=16, cached=0, candidates=None))
    assert not costs.covers(Work(events=17, cached=0, candidates=None))
    none = await measure_costs(engine, CONFIG, budget_s=0, clock=clock)
    assert none.lengths == ()
    assert not none.covers(Work(events=0, cached=0, candidates=1))


async def test_short_histories_go_where_it_is_cheaper() -> None:
    auto = await chooser()
    # 2 + .1 x events against 5 + .1 x (events that are not cached), which is 5 when all are.
    assert auto.choose(rows(5), None).name == "onnxruntime"
    assert auto.choose(rows(29), 100).name == "onnxruntime"
    assert auto.describe()["chosen"] == {"onnxruntime": 2}


async def test_a_history_that_pays_to_keep_goes_to_the_pages() -> None:
    auto = await chooser()
    # Cold, the second engine would be cheaper by 3 ms; but everybody returns, and later it
    # would cost 2 + 20 each time, where the pages cost 5.
    assert auto.choose(rows(200), None).name == "vllm"
    assert auto.choose(rows(200), None).name == "vllm"
    assert auto.describe()["returning"] == pytest.approx(1 - 0.01 + 0.01 * 0.01, abs=1e-3)


async def test_where_nobody_returns_the_pages_do_not_pay() -> None:
    auto = await chooser()
    auto._returning.share = 0.0
    assert auto.choose(rows(200), None).name == "onnxruntime"
    auto._returning.paged(rows(250))
    assert auto.choose(rows(250), None).name == "vllm"  # it is in the pages already


async def test_what_was_not_measured_goes_to_the_pages() -> None:
    auto = await chooser(budget_s=0.0)
    assert auto.choose(rows(5), None).name == "vllm"
    unmeasured = AutoChooser(auto._paged, auto._second, second_memory_mb=0)
    assert unmeasured.choose(rows(5), None).name == "vllm"
    assert unmeasured.describe()["costs"] == {}


async def test_stats_show_the_table() -> None:
    described = (await chooser()).describe()
    assert (described["second"], described["second_memory_mb"]) == ("onnxruntime", 12.3)
    assert set(described["costs"]) == {"vllm", "onnxruntime"}
    assert described["costs"]["onnxruntime"][2]["events"] == 64


def test_histories_that_return() -> None:
    returning = ReturningHistories(most=2)
    assert returning.meet(rows(3)) == 0
    assert returning.share == 1.0  # too short to be cached: it says nothing
    long = rows(50)
    assert returning.meet(long) == 0
    assert returning.meet(long) == 0  # met, but not in the pages
    returning.paged(long)
    assert returning.meet(long) == 50
    assert returning.share == pytest.approx(((0.99 * 0.99) + 0.01) * 0.99 + 0.01)
    for seed in (1, 2):
        returning.meet(rows(50, seed))
    assert returning.meet(long) == 0  # forgotten: two others came after it
