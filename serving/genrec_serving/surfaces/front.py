"""The one door to the recommender: every surface asks through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from genrec_model.errors import RequestError
from genrec_serving.recommender import Recommender, Visit
from genrec_serving.requests import Answer, RankQuery, RecommendQuery
from genrec_serving.surfaces.admission import Admission
from genrec_serving.telemetry.metrics import RequestMetrics, Surface

#: Gives the recommender, or raises `EngineError` while there is none yet.
GetRecommender = Callable[[], Recommender]
Asked = RecommendQuery | RankQuery
#: Decodes a query, or raises `RequestError`.
MakeQuery = Callable[[], Asked]
Part = TypeVar("Part")


class Front:
    """Gives each request a place in front of the engine, and counts what becomes of it.

    Args:
        recommender: see `GetRecommender`.
        metrics: where requests are counted.
        admission: places in front of the engine.
    """

    def __init__(
        self, recommender: GetRecommender, *, metrics: RequestMetrics, admission: Admission
    ) -> None:
        self.recommender = recommender
        self.metrics = metrics
        self.admission = admission
        #: Whether the server is about to stop: it still answers, but wants no more requests.
        self.draining = False

    async def ask(self, make_query: MakeQuery, surface: Surface) -> Answer:
        """Answer one user's request, after the events that it brings are kept.

        Raises:
            RequestError: something in it is wrong; its events are not kept.
            Overloaded: there is no place for it, or no time; its events are kept, but where the
                time passed while they were.
            EngineError: the engine is not available, or failed; its events are kept, unless the
                model is still loading.
            StoreError: the store of users does not answer.
        """
        with self.metrics.request(surface) as observer:
            query = make_query()  # what is wrong needs no place
            recommender = self.recommender()
            visit = None
            if query.events is not None:  # nor do events
                async with self.admission.in_time():
                    visit = await recommender.keep(query, query.events)
            async with self.admission.place(who=query.known_by()) as waited_s:
                observer.answer = await recommender.answer(query, waited_s=waited_s, visit=visit)
        return observer.answer

    async def ask_all(
        self, makers: Sequence[MakeQuery], surface: Surface
    ) -> list[Answer | RequestError]:
        """Answer the request of several users: an answer for each, or what is wrong with theirs.

        The events of all of them are kept before the first is answered.

        Raises:
            Overloaded, EngineError, StoreError: as `ask`; no user is answered then.
        """
        self.metrics.observe_batch(len(makers))
        recommender = self.recommender()

        async def keep(make_query: MakeQuery) -> tuple[Asked, Visit | None]:
            with self.metrics.request(surface):
                query = make_query()
                if query.events is None:
                    return query, None
                async with self.admission.in_time():
                    return query, await recommender.keep(query, query.events)

        kept = _parts(await asyncio.gather(*map(keep, makers), return_exceptions=True))
        async with self.admission.place(len(makers)) as waited_s:

            async def answer(part: tuple[Asked, Visit | None] | RequestError) -> Answer:
                if isinstance(part, RequestError):
                    raise part
                query, visit = part
                with self.metrics.request(surface) as observer:
                    observer.answer = await recommender.answer(
                        query, waited_s=waited_s, visit=visit
                    )
                return observer.answer

            return _parts(await asyncio.gather(*map(answer, kept), return_exceptions=True))


def _parts(results: Sequence[Part | BaseException]) -> list[Part | RequestError]:
    """What was found, or what is wrong; any other error is that of all."""
    found: list[Part | RequestError] = []
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, RequestError):
            raise result
        found.append(result)
    return found
