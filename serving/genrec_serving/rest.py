"""The plain REST API.

The two hot routes read and write JSON by themselves: through FastAPI's own models they would take
twice the time. Their schemas are on the OpenAPI page all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from genrec_model.errors import EngineError
from genrec_serving.metrics import RequestMetrics
from genrec_serving.recommender import Recommender
from genrec_serving.requests import MAX_CANDIDATES, MAX_EVENTS, MAX_K
from genrec_serving.schemas import (
    AnswerBody,
    Body,
    ErrorBody,
    RankBody,
    RecommendBody,
    answer_to_dict,
    json_schema,
    parse_json,
)
from genrec_serving.strategy import STRATEGIES
from genrec_serving.users.events import MAX_APPEND

#: Gives the recommender, or raises `EngineError` while there is none yet.
GetRecommender = Callable[[], Recommender]


def rest_router(recommender: GetRecommender, metrics: RequestMetrics) -> APIRouter:
    """Routes of the REST API."""
    router = APIRouter(tags=["recommender"])

    @router.post("/v1/recommend", **_documented(RecommendBody, "Best items of the catalogue"))
    async def recommend(request: Request) -> Response:
        with metrics.request("rest") as observer:
            body = parse_json(RecommendBody, await request.body())
            observer.answer = await recommender().recommend(body.query())
        return json_response(answer_to_dict(observer.answer))

    @router.post("/v1/rank", **_documented(RankBody, "Scores of given items"))
    async def rank(request: Request) -> Response:
        with metrics.request("rest") as observer:
            body = parse_json(RankBody, await request.body())
            observer.answer = await recommender().rank(body.query())
        return json_response(answer_to_dict(observer.answer))

    @router.get("/v1/stats", summary="The model, its engines, and what was answered so far")
    async def stats() -> Response:
        found = recommender()
        return json_response(
            {
                **describe(found),
                "users": await describe_users(found),
                "requests": metrics.snapshot(),
            }
        )

    @router.get("/healthz", summary="Whether the process is to be kept")
    async def live() -> Response:
        try:
            # Starting takes its time; an engine that died does not come back.
            healthy = recommender().healthy
        except EngineError:
            healthy = True
        return _health(healthy)

    @router.get("/readyz", summary="Whether requests can be answered")
    async def ready() -> Response:
        try:
            healthy = recommender().healthy
        except EngineError:
            healthy = False
        return _health(healthy)

    return router


def describe(recommender: Recommender) -> dict[str, Any]:
    """What a client may want to know about the model and the server's limits."""
    artifact, strategies = recommender.artifact, recommender.strategies
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
        },
        "strategies": {
            "default": strategies.default,
            "all": list(STRATEGIES),
            "started": strategies.started,
            "unavailable": strategies.unavailable,
        },
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


def _documented(body: type[Body], summary: str) -> dict[str, Any]:
    """Arguments of a route that reads its body itself, for the OpenAPI page."""
    error = {"model": ErrorBody}
    return {
        "summary": summary,
        "response_model": None,
        "responses": {
            200: {"model": AnswerBody},
            400: {**error, "description": "The body is not JSON"},
            404: {**error, "description": "The user is unknown"},
            422: {**error, "description": "A field is wrong"},
            503: {**error, "description": "The engine is not available"},
        },
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": json_schema(body)}},
            }
        },
    }


def json_response(value: Any, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(orjson.dumps(value), status, media_type="application/json")


def _health(healthy: bool) -> Response:
    return json_response({"status": "ok" if healthy else "unavailable"}, 200 if healthy else 503)
