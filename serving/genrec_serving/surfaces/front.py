"""The one door to the recommender: every surface asks through it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from genrec_model.errors import RequestError
from genrec_serving.recommender import Recommender
from genrec_serving.requests import Answer, RankQuery, RecommendQuery
from genrec_serving.surfaces.admission import Admission
from genrec_serving.telemetry.metrics import RequestMetrics, Surface

#: Gives the recommender, or raises `EngineError` while there is none yet.
GetRecommender = Callable[[], Recommender]
#: Decodes a query, or raises `RequestError`.
MakeQuery = Callable[[], RecommendQuery | RankQuery]


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
        """Answer one user's request.

        Raises:
            RequestError: something in it is wrong.
            Overloaded: there is no place for it, or no time.
            EngineError: the engine is not available, or failed.
            StoreError: the store of users does not answer.
        """
        with self.metrics.request(surface) as observer:
            query = make_query()  # what is wrong needs no place
            recommender = self.recommender()
            async with self.admission.place(who=query.known_by()) as waited_s:
                observer.answer = await recommender.answer(query, waited_s=waited_s)
        return observer.answer

    async def ask_all(
        self, makers: Sequence[MakeQuery], surface: Surface
    ) -> list[Answer | RequestError]:
        """Answer the request of several users: an answer for each, or what is wrong with theirs.

        Raises:
            Overloaded, EngineError, StoreError: as `ask`; no user is answered then.
        """
        self.metrics.observe_batch(len(makers))
        recommender = self.recommender()
        async with self.admission.place(len(makers)) as waited_s:

            async def answer(make_query: MakeQuery) -> Answer:
                with self.metrics.request(surface) as observer:
                    observer.answer = await recommender.answer(make_query(), waited_s=waited_s)
                return observer.answer

            results = await asyncio.gather(*map(answer, makers), return_exceptions=True)
        found: list[Answer | RequestError] = []
        for result in results:
            if not isinstance(result, Answer | RequestError):
                raise result
            found.append(result)
        return found
