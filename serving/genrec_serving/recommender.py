"""The recommender: from a question in ids to an answer in ids.

Letters in shapes: n items of an answer, T tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import numpy as np

from genrec_model.artifact import Artifact
from genrec_model.errors import RequestError
from genrec_model.features.reserved import NUM_RESERVED
from genrec_model.features.rows import Ints
from genrec_serving.encoding import Encoder, user_rows
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored
from genrec_serving.engines.probe import probe
from genrec_serving.histories import IndexedHistory
from genrec_serving.requests import (
    BY_SCORE,
    MAX_CANDIDATES,
    MAX_K,
    Answer,
    Query,
    RankQuery,
    RecommendQuery,
    ScoredItem,
)
from genrec_serving.strategies.strategy import STRATEGIES, Choice, Strategies
from genrec_serving.telemetry.tracing import is_tracing, span
from genrec_serving.users.events import Kept
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.user_event import UserEvent


class Visit(NamedTuple):
    """Events of a query that are kept.

    kept: what became of them.
    history: of the user, with them in it.
    ms: milliseconds that it took.
    """

    kept: Kept
    history: IndexedHistory
    ms: float


class _Stage(AbstractContextManager[None]):
    """Times a block; a generator would take longer."""

    def __init__(self, name: str, ms: dict[str, float]) -> None:
        self.name = name
        self._ms = ms
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._ms[self.name] = round((time.perf_counter() - self._start) * 1e3, 3)


@contextmanager
def _traced(stage: _Stage) -> Iterator[None]:
    with span(stage.name), stage:
        yield


class Stages:
    """Milliseconds of each stage of one request; each is a span where requests are traced.

    Args:
        waited_s: seconds that the request waited for its place.
        visit: events that were kept before that.
    """

    def __init__(self, waited_s: float, visit: Visit | None = None) -> None:
        self._start = time.perf_counter() - waited_s
        self._ms: dict[str, float] = {"queue": round(waited_s * 1e3, 3)}
        self.kept = None
        if visit is not None:
            self.kept = visit.kept
            self._ms["append"] = visit.ms
            self._start -= visit.ms / 1e3

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Time the block."""
        timed = _Stage(name, self._ms)
        return _traced(timed) if is_tracing() else timed

    def result(self) -> dict[str, float]:
        """All stages so far, and `total`."""
        return {**self._ms, "total": round((time.perf_counter() - self._start) * 1e3, 3)}


class Recommender:
    """Answers questions with one model; every surface of the server calls this one.

    Args:
        artifact: the model.
        strategies: its engines.
        name: of the model.
        version: of the model.
        users: whom the server knows.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        artifact: Artifact,
        strategies: Strategies,
        name: str,
        version: str,
        users: UserHistories | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.artifact = artifact
        self.strategies = strategies
        self.name = name
        self.version = version
        self.users = users
        self._clock = clock
        self._vocabulary = artifact.vocabulary
        self._spec = artifact.dataset.spec
        self._encoder = Encoder(self._vocabulary, users)

    @property
    def healthy(self) -> bool:
        """Whether requests can be answered."""
        return self.strategies.healthy

    @property
    def given_up(self) -> bool:
        """Whether requests will never be answered again."""
        return self.strategies.given_up

    async def keep(self, query: RecommendQuery | RankQuery, events: Sequence[UserEvent]) -> Visit:
        """Keep the events that a query brings.

        All of the query is checked before, so that a query that is wrong keeps nothing. What is
        kept stays kept, whatever becomes of the query after that.

        Raises:
            RequestError: something in the query is wrong; no event is kept.
            StoreError: the store does not answer.
        """
        start = time.perf_counter()
        with span("append"):
            user = self._encoder.appending_user(query)
            _check_strategy(query)
            if isinstance(query, RankQuery):
                self._order_by(query)
                self._candidates(query)
            else:
                _check_k(query)
                self._filters(query)
            now = int(self._clock())
            kept, history = await self._encoder.append(user, events, now=now)
        return Visit(kept, history, round((time.perf_counter() - start) * 1e3, 3))

    async def answer(
        self,
        query: RecommendQuery | RankQuery,
        *,
        waited_s: float = 0.0,
        visit: Visit | None = None,
    ) -> Answer:
        """`recommend` or `rank`, whichever the query is for."""
        if isinstance(query, RankQuery):
            return await self.rank(query, waited_s=waited_s, visit=visit)
        return await self.recommend(query, waited_s=waited_s, visit=visit)

    async def recommend(
        self, query: RecommendQuery, *, waited_s: float = 0.0, visit: Visit | None = None
    ) -> Answer:
        """The best items of the catalogue.

        Args:
            query: the question; its events are kept already.
            waited_s: seconds that it waited until now.
            visit: what `keep` gave.

        Raises:
            RequestError: something in the query is wrong.
            EngineError: the engine is not available, or failed.
        """
        stages = Stages(waited_s, visit)
        with stages.stage("features"):
            _check_k(query)
            _check_strategy(query)
            now = self._now(query)
            history = await self._history(query, visit, now)
            deny, allow = self._filters(query)
            exclude = [deny]
            exclude_seen = query.exclude_seen
            if exclude_seen if exclude_seen is not None else self._spec.exclude_seen:
                exclude.append(np.unique(history.items))
            call = RecommendCall(
                rows=user_rows(history, self.artifact.config, now=now),
                now=now,
                k=query.k,
                exclude=np.concatenate(exclude),
                allow=allow,
            )
            choice = await self.strategies.choose(query.strategy, call.rows)
        with stages.stage("engine"):
            scored = await choice.engine.recommend(call)
        order = np.arange(len(scored.items))
        return self._answer(scored, order, choice, len(call.rows.items) - 1, stages)

    async def rank(
        self, query: RankQuery, *, waited_s: float = 0.0, visit: Visit | None = None
    ) -> Answer:
        """The candidates with their scores, best first.

        Args:
            query: the question; its events are kept already.
            waited_s: seconds that it waited until now.
            visit: what `keep` gave.

        Raises:
            RequestError: something in the query is wrong.
            EngineError: the engine is not available, or failed.
        """
        stages = Stages(waited_s, visit)
        with stages.stage("features"):
            order_by = self._order_by(query)
            _check_strategy(query)
            now = self._now(query)
            history = await self._history(query, visit, now)
            call = RankCall(
                rows=user_rows(history, self.artifact.config, now=now),
                now=now,
                candidates=self._candidates(query),
            )
            choice = await self.strategies.choose(query.strategy, call.rows, len(call.candidates))
        with stages.stage("engine"):
            scored = await choice.engine.rank(call)
        column = scored.scores
        if order_by != BY_SCORE:
            column = scored.task_logits[:, self.artifact.config.tasks.index(order_by)]
        # Stable: items of one score stay in the order of the request.
        order = np.argsort(-column, kind="stable")
        return self._answer(scored, order, choice, len(call.rows.items) - 1, stages)

    async def warm_up(self) -> None:
        """Answer one recommendation and one ranking, and measure what ``auto`` decides by.

        Raises:
            EngineError: an engine cannot.
        """
        engine = (await self.strategies.choose(None)).engine
        await probe(engine, now=int(self._clock()))
        await self.strategies.measure(self.artifact.config)

    async def close(self) -> None:
        """Close the engines and the store of users."""
        self.strategies.close()
        if self.users is not None:
            await self.users.store.close()

    async def _history(self, query: Query, visit: Visit | None, now: int) -> IndexedHistory:
        if visit is not None:
            return visit.history.until(now)
        return await self._encoder.history(query, now=now)

    def _now(self, query: Query) -> int:
        return int(self._clock()) if query.now is None else query.now

    def _filters(self, query: RecommendQuery) -> tuple[Ints, Ints | None]:
        """Rows of the item table to leave out, and the only ones to consider."""
        deny = self._encoder.known_items(query.deny, field="deny")
        if query.allow is None:
            return deny, None
        if not query.allow:
            raise RequestError("is empty: leave it out to allow all items", field="allow")
        allowed = self._encoder.known_items(query.allow, field="allow")
        if not len(allowed):
            raise RequestError("has no item of the catalogue", field="allow")
        return deny, allowed

    def _candidates(self, query: RankQuery) -> Ints:
        if not query.candidates:
            raise RequestError("is empty: give the items to rank", field="candidates")
        candidates = self._encoder.items(query.candidates, field="candidates", limit=MAX_CANDIDATES)
        first: dict[int, int] = {}
        for i, item in enumerate(candidates.tolist()):
            if first.setdefault(item, i) != i:
                raise RequestError(
                    f"item {query.candidates[i]!r} is given twice", field=f"candidates[{i}]"
                )
        return candidates

    def _order_by(self, query: RankQuery) -> str:
        tasks = self.artifact.config.tasks
        if query.order_by is None:
            return tasks[0] if tasks else BY_SCORE
        if query.order_by != BY_SCORE and query.order_by not in tasks:
            raise RequestError(
                f"{query.order_by!r} is unknown: use one of {', '.join((*tasks, BY_SCORE))}",
                field="order_by",
            )
        return query.order_by

    def _answer(
        self, scored: Scored, order: Ints, choice: Choice, history_events: int, stages: Stages
    ) -> Answer:
        tasks = self.artifact.config.tasks
        with stages.stage("answer"):
            # The sigmoid, in the form that does not overflow.
            logits_nT = scored.task_logits[order].astype(np.float64)
            probabilities_nT = (1 + np.tanh(logits_nT / 2)) / 2
            item_ids, titles = self._vocabulary.item_ids, self._vocabulary.titles
            items = [
                ScoredItem(
                    item_id=item_ids[row],
                    title=titles[row],
                    score=score,
                    tasks=dict(zip(tasks, probabilities, strict=True)),
                )
                for row, score, probabilities in zip(
                    (scored.items[order] - NUM_RESERVED).tolist(),
                    scored.scores[order].tolist(),
                    probabilities_nT.tolist(),
                    strict=True,
                )
            ]
        return Answer(
            items=items,
            model_name=self.name,
            model_version=self.version,
            strategy=choice.engine.name,
            fallback=choice.fallback,
            history_events=history_events,
            # The start row is cached with the events, and is none.
            cached_events=max(scored.cached_rows - 1, 0),
            kept=stages.kept,
            timings_ms=stages.result(),
        )


def _check_k(query: RecommendQuery) -> None:
    if not 1 <= query.k <= MAX_K:
        raise RequestError(f"{query.k} is not between 1 and {MAX_K}", field="k")


def _check_strategy(query: Query) -> None:
    if query.strategy is not None and query.strategy not in STRATEGIES:
        raise RequestError(
            f"{query.strategy!r} is unknown: use one of {', '.join(STRATEGIES)}", field="strategy"
        )
