"""`/metrics`, with what the engines count brought up to date first."""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from kserve.protocol.rest.server import metrics_handler

from genrec_model.errors import EngineError
from genrec_serving.surfaces.front import Front

logger = logging.getLogger(__name__)

#: An engine that does not say in time how it does is shown as it was.
_SECONDS_TO_ASK = 2.0


def metrics_router(front: Front) -> APIRouter:
    """The route for Prometheus."""
    router = APIRouter(tags=["server"])

    @router.get("/metrics", summary="For Prometheus")
    async def metrics(request: Request) -> Response:
        await _ask_engines(front)
        answer: Response = await metrics_handler(request)
        return answer

    return router


async def _ask_engines(front: Front) -> None:
    try:
        recommender = front.recommender()
        async with asyncio.timeout(_SECONDS_TO_ASK):
            found = await recommender.strategies.statistics()
    except (EngineError, TimeoutError) as error:
        logger.debug("the engines' metrics are those of before: %s", error)
        return
    front.metrics.engines.show(recommender.version, found)
