"""What vLLM engines have in common, in this process or in others: how they are asked."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from concurrent.futures import Future, InvalidStateError
from typing import Any

from genrec_model.errors import EngineError
from genrec_model.features.rows import UserRows
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine
from genrec_serving.vllm_plugin.pooling_request import rank_kwargs, recommend_kwargs

logger = logging.getLogger(__name__)


class PagedEngine(ScoringEngine):
    """An engine over vLLM's pages."""

    name = "vllm"

    @abstractmethod
    def ask(self, rows: UserRows, kwargs: dict[str, Any]) -> Future[Scored]:
        """Hand a request over.

        Args:
            rows: history of one user.
            kwargs: what is asked, from `pooling_request`.

        Raises:
            EngineError: the engine failed or was closed.
        """

    async def recommend(self, call: RecommendCall) -> Scored:
        """As the base class says."""
        kwargs = recommend_kwargs(k=call.k, now=call.now, exclude=call.exclude, allow=call.allow)
        return await asyncio.wrap_future(self.ask(call.rows, kwargs))

    async def rank(self, call: RankCall) -> Scored:
        """As the base class says."""
        kwargs = rank_kwargs(candidates=call.candidates, now=call.now)
        return await asyncio.wrap_future(self.ask(call.rows, kwargs))


def resolve(answer: Future[Any], result: Any) -> None:
    """Give the answer, unless nobody waits for it any more."""
    try:
        answer.set_result(result)
    except InvalidStateError:
        logger.debug("nobody waits for this answer any more")


def fail(answer: Future[Any], message: str) -> None:
    """Give an `EngineError`, unless nobody waits for the answer any more."""
    try:
        answer.set_exception(EngineError(message))
    except InvalidStateError:
        logger.debug("nobody waits for this answer any more")
