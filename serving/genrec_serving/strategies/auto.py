"""Which of two engines answers a request, by what both are measured to cost.

The paged engine (vLLM) keeps histories, the second one computes each history whole, each time. So
the second one is right where it is cheaper even counting what the cache would have saved later:

    second + returning x max(second - warm, 0)  <  paged

`second`, `paged` and `warm` are the estimated milliseconds of this call by the second engine, by
the paged one with what it is expected to have in its cache, and by the paged one with the whole
history in it; `returning` is the share of requests whose history was asked about before.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from genrec_model.features.rows import UserRows
from genrec_model.hstu import HSTUConfig
from genrec_serving.engines.interface import ScoringEngine
from genrec_serving.strategies.costs import EngineCosts, Work, measure_costs
from genrec_serving.strategies.returning import ReturningHistories

#: Seconds in which each of the two engines is measured.
BUDGET_S = 5.0


class AutoChooser:
    """Decides between two engines; until they are measured, the paged one answers.

    Args:
        paged: keeps histories.
        second: keeps nothing.
        second_memory_mb: what the second one costs.
        budget_s: seconds in which each is measured.
        clock: seconds.
    """

    def __init__(
        self,
        paged: ScoringEngine,
        second: ScoringEngine,
        *,
        second_memory_mb: float,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._paged = paged
        self._second = second
        self._second_memory_mb = second_memory_mb
        self._budget_s = budget_s
        self._clock = clock
        self._costs: tuple[EngineCosts, EngineCosts] | None = None
        self._returning = ReturningHistories()
        self._chosen: Counter[str] = Counter()

    async def measure(self, config: HSTUConfig) -> None:
        """Measure both engines.

        Raises:
            EngineError: one failed.
        """
        paged, second = [
            await measure_costs(engine, config, budget_s=self._budget_s, clock=self._clock)
            for engine in (self._paged, self._second)
        ]
        self._costs = paged, second

    def choose(self, rows: UserRows, candidates: int | None) -> ScoringEngine:
        """The engine for a request.

        Args:
            rows: the history, start row first.
            candidates: to rank; None for a recommendation.
        """
        cached = self._returning.meet(rows)
        work = Work(events=len(rows.items) - 1, cached=cached, candidates=candidates)
        engine = self._second if self._second_pays(work) else self._paged
        if engine is self._paged:
            self._returning.paged(rows)
        self._chosen[engine.name] += 1
        return engine

    def describe(self) -> dict[str, Any]:
        """For `/v1/stats`."""
        costs = self._costs or ()
        engines = (self._paged, self._second)
        return {
            "second": self._second.name,
            "second_memory_mb": round(self._second_memory_mb, 1),
            "returning": round(self._returning.share, 3),
            "chosen": dict(self._chosen),
            "costs": {e.name: cost.table() for e, cost in zip(engines, costs, strict=False)},
        }

    def _second_pays(self, work: Work) -> bool:
        if self._costs is None:
            return False
        paged, second = self._costs
        if not paged.covers(work) or not second.covers(work):
            return False  # nothing is known of histories that long
        second_ms = second.estimate_ms(work)
        warm_ms = paged.estimate_ms(replace(work, cached=work.events))
        lost_ms = self._returning.share * max(second_ms - warm_ms, 0.0)
        return second_ms + lost_ms < paged.estimate_ms(work)
