"""The part of the REST API that keeps what users did."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from genrec_model.errors import RequestError
from genrec_serving.recommender import Recommender
from genrec_serving.surfaces.front import GetRecommender
from genrec_serving.surfaces.rest import json_response
from genrec_serving.surfaces.schemas import (
    AppendBody,
    AppendedBody,
    ErrorBody,
    ForgottenBody,
    UserBody,
    json_schema,
    kept_to_dict,
    parse_json,
)
from genrec_serving.users.events import MAX_ID_LENGTH
from genrec_serving.users.histories import UserHistories

UserId = Annotated[str, Path(max_length=MAX_ID_LENGTH, description='42 and "42" are the same user')]
_ERROR = {"model": ErrorBody}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {**_ERROR, "description": "The body is not JSON, or a parameter is wrong"},
    422: {**_ERROR, "description": "A field is wrong"},
    503: {**_ERROR, "description": "The store does not answer, or the model is still loading"},
}
_UNKNOWN: dict[int | str, dict[str, Any]] = {404: {**_ERROR, "description": "The user is unknown"}}


def users_router(recommender: GetRecommender, clock: Callable[[], float] = time.time) -> APIRouter:
    """Routes of user state."""
    router = APIRouter(tags=["users"])

    @router.post(
        "/v1/users/{user_id}/events",
        summary="Keep events; safe on the disk or in the store's server when answered",
        response_model=None,
        responses={200: {"model": AppendedBody}, **_ERRORS},
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": json_schema(AppendBody)}},
            }
        },
    )
    async def append(user_id: UserId, request: Request) -> Response:
        content = await append_events(recommender, user_id, await request.body(), now=int(clock()))
        return Response(content, media_type="application/json")

    @router.get(
        "/v1/users/{user_id}",
        summary="What is held of a user",
        response_model=None,
        responses={200: {"model": UserBody}, **_ERRORS, **_UNKNOWN},
    )
    async def view(
        user_id: UserId,
        limit: Annotated[int, Query(ge=0, le=1000, description="most events to show")] = 100,
    ) -> Response:
        found = await _users(recommender()).view(user_id)
        if found is None:
            raise RequestError(f"user {user_id!r} is unknown", field="user_id", status=404)
        latest = found.events[max(len(found.events) - limit, 0) :]
        return json_response(
            {
                "user_id": user_id,
                "held": len(found.events),
                "dataset_events": found.dataset_events,
                "events": [
                    {name: getattr(event, name) for name in event.__struct_fields__}
                    for event in latest
                ],
            }
        )

    @router.delete(
        "/v1/users/{user_id}",
        summary="Forget all of a user, also their events in the data set",
        response_model=None,
        responses={200: {"model": ForgottenBody}, **_ERRORS},
    )
    async def forget(user_id: UserId) -> Response:
        forgotten = await _users(recommender()).forget(user_id)
        return json_response({"user_id": user_id, "forgotten": forgotten})

    return router


async def append_events(
    recommender: GetRecommender, user_id: str, content: bytes, *, now: int
) -> bytes:
    """Keep the events of a body; what became of them, as JSON.

    Args:
        recommender: whose users they are of.
        user_id: any user.
        content: an `AppendBody` in JSON.
        now: unix seconds.

    Raises:
        RequestError: something in it is wrong; no event is kept.
        EngineError: the model is still loading.
        StoreError: the store does not answer.
    """
    body = parse_json(AppendBody, content)
    events = [event.user_event() for event in body.events]
    kept = await _users(recommender()).append(user_id, events, now=now)
    return orjson.dumps({"user_id": user_id, **kept_to_dict(kept)})


def _users(recommender: Recommender) -> UserHistories:
    if recommender.users is None:
        raise RequestError("this server keeps no users", field="user_id", status=404)
    return recommender.users
