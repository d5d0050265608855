"""What a call costs each engine, measured on this machine before the server is ready.

Letters in shapes: L lengths of histories, C numbers of candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import UserRows, history_rows
from genrec_model.hstu import HSTUConfig
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine

LENGTHS = (0, 16, 64, 256, 1024, 4096, 16384)
CANDIDATES = (1, 100, 1000)
#: Items of a measured recommendation; how many they are matters little beside the catalogue.
_K = 10
#: Calls of which the fastest counts: the first one pays for what is allocated once.
_REPEATS = 2
_HOUR = 3600

Grid = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a call asks for.

    Args:
        events: of the history.
        cached: of these, those that the engine is expected to have in its cache.
        candidates: to rank; None for a recommendation.
    """

    events: int
    cached: int
    candidates: int | None


@dataclass(frozen=True, kw_only=True)
class EngineCosts:
    """Milliseconds of one engine's calls.

    Args:
        lengths: events of the measured histories, ascending; those that time allowed.
        candidates: numbers of candidates, ascending.
        recommend_cold, recommend_warm: [L], without and with the history in the cache.
        rank_cold, rank_warm: [L, C].
    """

    lengths: tuple[int, ...]
    candidates: tuple[int, ...]
    recommend_cold: Grid
    recommend_warm: Grid
    rank_cold: Grid
    rank_warm: Grid

    def covers(self, work: Work) -> bool:
        """Whether such a history was measured, or a shorter and a longer one."""
        return bool(self.lengths) and work.events <= self.lengths[-1]

    def estimate_ms(self, work: Work) -> float:
        """Between the measured calls that are next to it; in proportion to what is cached."""
        cold = self._interpolate(work, self.recommend_cold, self.rank_cold)
        warm = self._interpolate(work, self.recommend_warm, self.rank_warm)
        share = work.cached / work.events if work.events else 1.0
        return cold + (warm - cold) * share

    def _interpolate(self, work: Work, recommend: Grid, rank: Grid) -> float:
        column = recommend
        if work.candidates is not None:
            column = np.array([np.interp(work.candidates, self.candidates, row) for row in rank])
        return float(np.interp(work.events, self.lengths, column))

    def table(self) -> list[dict[str, Any]]:
        """For `/v1/stats`: a row for each length."""
        return [
            {
                "events": events,
                "recommend_ms": {
                    "cold": round(float(self.recommend_cold[i]), 3),
                    "warm": round(float(self.recommend_warm[i]), 3),
                },
                **{
                    f"rank_{c}_ms": {
                        "cold": round(float(self.rank_cold[i, j]), 3),
                        "warm": round(float(self.rank_warm[i, j]), 3),
                    }
                    for j, c in enumerate(self.candidates)
                },
            }
            for i, events in enumerate(self.lengths)
        ]


async def measure_costs(
    engine: ScoringEngine,
    config: HSTUConfig,
    *,
    budget_s: float,
    clock: Callable[[], float] = time.perf_counter,
    lengths: Sequence[int] = LENGTHS,
) -> EngineCosts:
    """Measure an engine, short histories first, until the time is over.

    Args:
        engine: that runs, with nobody else asking it.
        config: of the model.
        budget_s: seconds after which no further length is begun.
        clock: seconds.
        lengths: events of the histories; the model's longest is measured too.

    Raises:
        EngineError: the engine failed.
    """
    ends_at = clock() + budget_s
    items = config.num_items - NUM_RESERVED
    candidates = tuple(sorted({min(c, items) for c in CANDIDATES}))
    rng = np.random.default_rng(0)
    measured: list[tuple[int, tuple[float, float], list[tuple[float, float]]]] = []
    for events in sorted({min(n, config.max_history) for n in (*lengths, config.max_history)}):
        if clock() >= ends_at:
            break

        async def timed(call: RecommendCall | RankCall) -> float:
            start = clock()
            await _run(engine, call)
            return (clock() - start) * 1e3

        async def cold_and_warm(
            make: Callable[[UserRows], RecommendCall | RankCall], events: int = events
        ) -> tuple[float, float]:
            cold, warm = [], []
            for _ in range(_REPEATS):
                call = make(_random_rows(rng, config, events))
                cold.append(await timed(call))
                warm.append(await timed(call))
            return min(cold), min(warm)

        recommend = await cold_and_warm(
            lambda rows: RecommendCall(rows=rows, now=_now(rows), k=_K, exclude=np.empty(0, int))
        )
        rank = [
            await cold_and_warm(
                lambda rows, c=c: RankCall(  # type: ignore[misc]
                    rows=rows, now=_now(rows), candidates=np.arange(NUM_RESERVED, NUM_RESERVED + c)
                )
            )
            for c in candidates
        ]
        measured.append((events, recommend, rank))
    return EngineCosts(
        lengths=tuple(events for events, _, _ in measured),
        candidates=candidates,
        recommend_cold=np.array([recommend[0] for _, recommend, _ in measured]),
        recommend_warm=np.array([recommend[1] for _, recommend, _ in measured]),
        rank_cold=np.array([[cell[0] for cell in rank] for _, _, rank in measured]),
        rank_warm=np.array([[cell[1] for cell in rank] for _, _, rank in measured]),
    )


async def _run(engine: ScoringEngine, call: RecommendCall | RankCall) -> None:
    if isinstance(call, RankCall):
        await engine.rank(call)
    else:
        await engine.recommend(call)


def _random_rows(rng: np.random.Generator, config: HSTUConfig, events: int) -> UserRows:
    """A history that nobody had before."""
    times = np.sort(rng.integers(0, 10**6, events)) + int(rng.integers(10**9))
    return history_rows(
        rng.integers(NUM_RESERVED, config.num_items, events),
        rng.integers(NUM_RESERVED_ACTIONS, config.num_actions, events),
        times,
        now=int(rng.integers(10**9)),
    )


def _now(rows: UserRows) -> int:
    return int(rows.timestamps[-1]) + _HOUR
