"""The plain REST API.

Routes read and write JSON by themselves: through FastAPI's own models they would take twice the
time. Their schemas are on the OpenAPI page all the same.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from genrec_model.errors import EngineError
from genrec_serving.recommender import Recommender
from genrec_serving.requests import MAX_CANDIDATES, MAX_EVENTS, MAX_K
from genrec_serving.surfaces.api import RecommendApi
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.gathering import Gather
from genrec_serving.surfaces.schemas import (
    AnswerBody,
    BatchAnswersBody,
    BatchBody,
    Body,
    ErrorBody,
    RankBody,
    RecommendBody,
    json_schema,
)
from genrec_serving.telemetry.numbers import sum_admission, sum_requests
from genrec_serving.users.events import MAX_APPEND


def rest_router(front: Front, gather: Gather | None = None) -> APIRouter:
    """Routes of the REST API; `gather` gives the numbers of all processes that take requests."""
    router = APIRouter(tags=["recommender"])
    api, recommender = RecommendApi(front), front.recommender

    @router.post(
        "/v1/recommend", **_documented(RecommendBody, AnswerBody, "Best items of the catalogue")
    )
    async def recommend(request: Request) -> Response:
        return _answer(await api.recommend(await request.body()))

    @router.post("/v1/rank", **_documented(RankBody, AnswerBody, "Scores of given items"))
    async def rank(request: Request) -> Response:
        return _answer(await api.rank(await request.body()))

    @router.post(
        "/v1/batch", **_documented(BatchBody, BatchAnswersBody, "Requests of several users")
    )
    async def batch(request: Request) -> Response:
        return _answer(await api.batch(await request.body()))

    @router.get("/v1/stats", summary="The model, its engines, and what was answered so far")
    async def stats() -> Response:
        found = recommender()
        return json_response(
            {
                **describe(found),
                "engines": await found.strategies.statistics(),
                "users": await describe_users(found),
                **await _numbers(front, gather),
            }
        )

    @router.get("/healthz", summary="Whether the process is to be kept")
    async def live() -> Response:
        try:
            # An engine that died is started again, up to a number of tries.
            alive = not recommender().given_up
        except EngineError:
            alive = True  # starting takes its time
        return _health(alive)

    @router.get("/readyz", summary="Whether requests can be answered")
    async def ready() -> Response:
        try:
            healthy = recommender().healthy and not front.draining
        except EngineError:
            healthy = False
        return _health(healthy)

    return router


async def _numbers(front: Front, gather: Gather | None) -> dict[str, Any]:
    """What is counted; of several processes that take requests, the sums."""
    if gather is None:
        return {"requests": front.metrics.snapshot(), "admission": front.admission.snapshot()}
    found = await gather()
    requests = [part.requests for part in found if part.requests is not None]
    admission = [part.admission for part in found if part.admission is not None]
    return {
        "http_processes": len(admission),
        "requests": sum_requests(requests).snapshot(time.time()),
        "admission": sum_admission(admission),
    }


def describe(recommender: Recommender) -> dict[str, Any]:
    """What a client may want to know about the model and the server's limits."""
    artifact = recommender.artifact
    spec, config = artifact.dataset.spec, artifact.config
    return {
        "model": {
            "name": recommender.name,
            "version": recommender.version,
            "dataset": spec.name,
            "dataset_digest": artifact.dataset.digest,
            "items": artifact.vocabulary.items.height,
            "actions": list(spec.actions),
            "tasks": {task.name: task.description for task in spec.tasks},
            "unlabelled_tasks": dict(spec.unlabelled),
            "exclude_seen": spec.exclude_seen,
            "max_history": config.max_history,
            "layers": config.num_layers,
            "width": config.hidden_size,
        },
        "strategies": recommender.strategies.describe(),
        "limits": {
            "events": MAX_EVENTS,
            "candidates": MAX_CANDIDATES,
            "k": MAX_K,
            "append": MAX_APPEND,
        },
    }


async def describe_users(recommender: Recommender) -> dict[str, Any] | None:
    """Whom the server knows."""
    users = recommender.users
    if users is None:
        return None
    return {
        "dataset": 0 if users.base is None else len(users.base),
        "store": users.store.name,
        "appended": await users.store.count(),
        "events_per_user": users.store.events_per_user,
    }


def _documented(body: type[Body], answer: type[BaseModel], summary: str) -> dict[str, Any]:
    """Arguments of a route that reads its body itself, for the OpenAPI page."""
    error = {"model": ErrorBody}
    return {
        "summary": summary,
        "response_model": None,
        "responses": {
            200: {"model": answer},
            400: {**error, "description": "The body is not JSON"},
            404: {**error, "description": "The user is unknown"},
            413: {**error, "description": "The body is too large"},
            422: {**error, "description": "A field is wrong"},
            429: {**error, "description": "Too many requests: see Retry-After"},
            503: {**error, "description": "The engine is not available, or not in time"},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": json_schema(body)}},
            }
        },
    }


def _answer(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def json_response(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def _health(healthy: bool) -> Response:
    return json_response({"status": "ok" if healthy else "unavailable"}, 200 if healthy else 503)
