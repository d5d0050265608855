"""Users of a paged engine, without HTTP: what they ask, and how fast they are answered."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from genrec_model.artifact import Artifact
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import UserRows
from genrec_serving.bench.item_popularity import ItemPopularity
from genrec_serving.encoding import user_rows
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine
from genrec_serving.histories import IndexedHistory

NOW = 1_700_000_000
NOTHING = np.zeros(0, np.int64)
_STRANGERS = 64


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and who asks it.

    Args:
        case: of the records.
        items, layers, heads, width, max_history: of the model.
        mean_history: events of a user at first.
        spread: whether users have different numbers of them, from none to `max_history`.
        candidates: that a request ranks.
        new_events: that a user returns with.
        kv_cache_mb: memory of the pages.
        batch: users of the model alone, from scratch.
    """

    case: str
    items: int
    layers: int
    heads: int
    width: int
    max_history: int
    mean_history: int
    spread: bool = False
    candidates: int
    new_events: int
    kv_cache_mb: int
    batch: int = 8

    def lengths(self, random: np.random.Generator, count: int) -> list[int]:
        """Events of so many users."""
        if not self.spread:
            return [self.mean_history] * count
        mean = self.mean_history / self.max_history
        shares = random.beta(1.5, 1.5 / mean - 1.5, count)
        return [int(length) for length in (shares * self.max_history).round()]


PRESETS = {
    "owner": Preset(
        case="engine-owner-table", items=50_000, layers=12, heads=16, width=1024,
        max_history=2047, mean_history=1535, candidates=100, new_events=8, kv_cache_mb=24_000,
    ),
    # As MLPerf's DLRMv3 asks. Eager attention takes gigabytes for a user, so that one is a batch.
    "dlrmv3": Preset(
        case="engine-dlrmv3", items=100_000, layers=5, heads=4, width=512, max_history=16_383,
        mean_history=7000, spread=True, candidates=2048, new_events=8, kv_cache_mb=48_000, batch=1,
    ),
    "small": Preset(
        case="engine-small", items=1000, layers=2, heads=2, width=32, max_history=255,
        mean_history=191, candidates=20, new_events=2, kv_cache_mb=64, batch=2,
    ),
}  # fmt: skip


class Users:
    """Histories that grow, seeded.

    Args:
        artifact: the model that they ask.
        preset: how they ask it.
        count: of users.
        items: what they use and are shown; None: all items alike.
    """

    def __init__(
        self,
        artifact: Artifact,
        preset: Preset,
        count: int,
        *,
        items: ItemPopularity | None = None,
    ) -> None:
        self._config = artifact.config
        self._preset = preset
        self._items = items or ItemPopularity(artifact.config.num_items - NUM_RESERVED, 0.0)
        self._random = np.random.default_rng(0)
        self._histories = [self._new(length) for length in preset.lengths(self._random, count)]
        self._strangers = [self._new(n) for n in preset.lengths(self._random, _STRANGERS)]
        self._strange = itertools.count()
        # Drawn beforehand: a draw takes as long as a request.
        self._lists = [self._draw() for _ in range(256)]

    def _new(self, events: int) -> IndexedHistory:
        gaps = np.exp(self._random.random(events) * 11).astype(np.int64)
        return IndexedHistory(
            items=self._items.draw(self._random, events) + NUM_RESERVED,
            actions=self._random.integers(NUM_RESERVED_ACTIONS, self._config.num_actions, events),
            timestamps=NOW - gaps[::-1].cumsum()[::-1],
        )

    def cold(self, events: int) -> UserRows:
        """Somebody new with a whole history."""
        return user_rows(self._new(events), self._config, now=NOW)

    def stranger(self) -> UserRows:
        """Somebody new, as long as users are; no event of theirs is in a cache."""
        number = next(self._strange)
        # Nothing after another first event is the same; a new history would take longer to draw.
        some = self._strangers[number % _STRANGERS]
        items = some.items.copy()
        items[:1] = NUM_RESERVED + number % (self._config.num_items - NUM_RESERVED)
        return user_rows(replace(some, items=items), self._config, now=NOW)

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
        return self._items.draw_apart(self._random, self._preset.candidates) + NUM_RESERVED


@dataclass(frozen=True)
class Load:
    """What a load came to."""

    latencies_ms: list[float]
    requests_per_s: float
    cached_share: float

    def quantile(self, share: float) -> float:
        """Of the latencies."""
        return float(np.quantile(self.latencies_ms, share))


async def closed_loop(
    engine: ScoringEngine,
    users: Users,
    count: int,
    seconds: float,
    *,
    at_once: int | None = None,
    k: int | None = None,
    cold: bool = False,
) -> Load:
    """Users who come back as soon as they are answered.

    They have candidates ranked; with `k`, they have so many items found.

    Args:
        engine: that they ask.
        users: who they are.
        count: how many of them come.
        seconds: for how long.
        at_once: how many are there at the same time, in turns; None: all.
        k: items to find.
        cold: everybody is somebody new.
    """
    latencies: list[float] = []
    cached = total = 0
    end = time.perf_counter() + seconds
    visitors = count if at_once is None else min(at_once, count)

    async def visit(first: int) -> None:
        nonlocal cached, total
        for user in itertools.cycle(range(first, count, visitors)):
            if time.perf_counter() >= end:
                return
            rows = users.stranger() if cold else users.come_back(user)
            candidates = users.candidates()
            begin = time.perf_counter()
            if k is None:
                found = await engine.rank(RankCall(rows=rows, now=NOW, candidates=candidates))
            else:
                call = RecommendCall(rows=rows, now=NOW, k=k, exclude=NOTHING)
                found = await engine.recommend(call)
            latencies.append((time.perf_counter() - begin) * 1e3)
            cached += found.cached_rows
            total += len(rows.items)

    begin = time.perf_counter()
    await asyncio.gather(*(visit(user) for user in range(visitors)))
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
