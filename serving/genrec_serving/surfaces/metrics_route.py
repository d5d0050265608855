"""`/metrics`, with what the engines count brought up to date first.

Where several processes take requests, it shows the sums of all of them, whichever one is asked.
"""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter, Request, Response
from kserve.protocol.rest.server import metrics_handler
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

from genrec_model.errors import EngineError
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.gathering import Gather
from genrec_serving.telemetry.numbers import Numbers, Shown, sum_families

logger = logging.getLogger(__name__)

#: An engine that does not say in time how it does is shown as it was.
_SECONDS_TO_ASK = 2.0


def metrics_router(front: Front, gather: Gather | None = None) -> APIRouter:
    """The route for Prometheus; `gather` gives the numbers of all processes."""
    router = APIRouter(tags=["server"])

    @router.get("/metrics", summary="For Prometheus")
    async def metrics(request: Request) -> Response:
        await _ask_engines(front)
        if gather is not None:
            return _sums(await gather(), front, request.headers.get("accept", ""))
        answer: Response = await metrics_handler(request)
        return answer

    return router


def _sums(found: list[Numbers], front: Front, accept: str) -> Response:
    takers = [part for part in found if part.admission is not None]
    registry = CollectorRegistry()
    Gauge(
        "genrec_http_processes", "Processes that take requests, whose sums these are",
        registry=registry,
    ).set(len(takers))  # fmt: skip
    registry.register(Shown(sum_families(part.families for part in found)))
    registry.register(front.metrics.engines)
    encode, content_type = choose_encoder(accept)
    return Response(encode(registry), media_type=None, headers={"content-type": content_type})


async def _ask_engines(front: Front) -> None:
    try:
        recommender = front.recommender()
        async with asyncio.timeout(_SECONDS_TO_ASK):
            found = await recommender.strategies.statistics()
    except (EngineError, TimeoutError) as error:
        logger.debug("the engines' metrics are those of before: %s", error)
        return
    front.metrics.engines.show(recommender.version, found)
