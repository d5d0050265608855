"""The REST API of user state, over a store that also fails."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import orjson
import pytest
from fastapi import FastAPI

from genrec_model.errors import EngineError, StoreError
from genrec_serving.surfaces.error_responses import add_error_handlers
from genrec_serving.surfaces.rest_users import users_router
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.memory_store import MemoryStore

EVENT = {"event_id": "a", "item_id": 1000, "action": "view", "timestamp": 5}


class FailingStore(MemoryStore):
    async def tag(self, *_):
        raise StoreError("user store redis: ConnectionError")

    read = update = tag


def client_of(get_recommender) -> httpx.AsyncClient:
    app = FastAPI()
    app.include_router(users_router(get_recommender, clock=lambda: 1000.0))
    add_error_handlers(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


def client_with(artifact, store) -> httpx.AsyncClient:
    users = UserHistories(artifact.vocabulary, store=store)
    recommender = SimpleNamespace(users=users)
    return client_of(lambda: recommender)


@pytest.fixture
def client(served_artifact) -> httpx.AsyncClient:
    return client_with(served_artifact, MemoryStore(events_per_user=512, max_users=9))


async def test_append_view_forget(client) -> None:
    body = {"events": [EVENT, {**EVENT, "event_id": "b", "timestamp": 3, "value": 2.5}]}
    answer = await client.post("/v1/users/u 1/events", json=body)
    assert answer.json() == {
        "user_id": "u 1", "accepted": 2, "duplicates": 0, "too_old": 0, "held": 2,
        "unknown_items": 0,
    }  # fmt: skip
    assert (await client.post("/v1/users/u 1/events", json=body)).json()["duplicates"] == 2
    view = (await client.get("/v1/users/u 1")).json()
    assert (view["held"], view["dataset_events"]) == (2, 0)
    assert view["events"] == [body["events"][1], {**EVENT, "value": None}]
    latest = (await client.get("/v1/users/u 1", params={"limit": 1})).json()["events"]
    assert [event["event_id"] for event in latest] == ["a"]
    assert (await client.get("/v1/users/u 1?limit=0")).json()["events"] == []
    assert (await client.delete("/v1/users/u 1")).json()["forgotten"] is True
    assert (await client.delete("/v1/users/u 1")).json()["forgotten"] is False
    assert (await client.get("/v1/users/u 1")).status_code == 404


@pytest.mark.parametrize(
    ("body", "field", "status"),
    [
        (b"{", "body", 400),
        (b"[]", "body", 422),
        (b"{}", "events", 422),
        (b'{"events": []}', "events", 422),
        (b'{"events": [{}]}', "events[0].item_id", 422),
        (b'{"events": [{"item_id": 1, "action": "x", "timestamp": 5}]}', "events[0].event_id", 422),
        (orjson.dumps({"events": [{**EVENT, "event_id": 1}]}), "events[0].event_id", 422),
        (orjson.dumps({"events": [{**EVENT, "timestamp": 90_000}]}), "events[0].timestamp", 422),
    ],
)
async def test_wrong_bodies(client, body, field, status) -> None:
    answer = await client.post("/v1/users/1/events", content=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["field"] == field


async def test_wrong_parameters(client) -> None:
    for path in ("/v1/users/1?limit=-1", "/v1/users/1?limit=x", f"/v1/users/{'x' * 129}"):
        answer = await client.get(path)
        assert answer.status_code == 400, path
        assert answer.json()["error"]["field"] in {"limit", "user_id"}


async def test_a_store_that_does_not_answer_is_a_503(served_artifact) -> None:
    client = client_with(served_artifact, FailingStore(events_per_user=512, max_users=1))
    for answer in (
        await client.post("/v1/users/1/events", json={"events": [EVENT]}),
        await client.get("/v1/users/1"),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["error"] == {
            "field": "store", "message": "user store redis: ConnectionError",
        }  # fmt: skip


async def test_a_server_that_loads_or_keeps_no_users() -> None:
    def loading():
        raise EngineError("model tiny is still loading")

    assert (await client_of(loading).get("/v1/users/1")).status_code == 503
    nobody = client_of(lambda: SimpleNamespace(users=None))
    assert (await nobody.delete("/v1/users/1")).status_code == 404
