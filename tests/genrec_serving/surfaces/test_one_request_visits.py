"""Visits in one request: events that come with a question are kept before it is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from genrec_model.errors import EngineError, StoreError
from genrec_serving.engines.torch_engine import TorchEngine
from genrec_serving.recommender import Recommender
from genrec_serving.server_parts import build_app
from genrec_serving.strategies.strategy import Strategies
from genrec_serving.surfaces.admission import Admission, AdmissionLimits
from genrec_serving.surfaces.error_responses import add_error_handlers
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.request_guard import RequestGuard
from genrec_serving.telemetry.metrics import RequestMetrics
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.memory_store import MemoryStore

EVENT = {"event_id": "a", "item_id": 1000, "action": "view", "timestamp": 5}
EVENTS = [EVENT, {**EVENT, "event_id": "b", "timestamp": 7, "item_id": 1004, "action": "buy"}]
RANK = {"user_id": 42, "events": EVENTS, "candidates": [1001, 1002], "now": 1000}
RECOMMEND = {"user_id": 42, "events": EVENTS, "k": 3, "now": 1000}
KEPT = {"accepted": 2, "duplicates": 0, "too_old": 0, "unknown_items": 0, "held": 2}


class FailingStore(MemoryStore):
    async def update(self, *_: Any) -> Any:
        raise StoreError("user store redis: ConnectionError")


class Server:
    """The whole application, without sockets."""

    def __init__(self, artifact: Any, store: Any = None, *, users: bool = True, **limits: Any):
        self.engine = TorchEngine(artifact)
        self.store = store or MemoryStore(events_per_user=512, max_users=9)
        recommender = Recommender(
            artifact=artifact,
            strategies=Strategies(
                factories={}, started={"torch": self.engine}, default="torch", unavailable={}
            ),
            name="tiny",
            version="7",
            users=UserHistories(artifact.vocabulary, store=self.store) if users else None,
        )
        registry = CollectorRegistry()
        self.front = Front(
            lambda: recommender,
            metrics=RequestMetrics(registry),
            admission=Admission(AdmissionLimits(**limits), registry=registry),
        )
        app = build_app(self.front)
        add_error_handlers(app)
        app.add_middleware(RequestGuard)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def held(self) -> int:
        state = await self.store.read("42")
        return 0 if state is None else len(state.events)


@pytest.fixture
def server(served_artifact) -> Server:
    return Server(served_artifact)


@pytest.mark.parametrize(("path", "body"), [("/v1/rank", RANK), ("/v1/recommend", RECOMMEND)])
async def test_events_are_kept_and_seen(server, served_artifact, path, body) -> None:
    answer = await server.post(path, body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["appended"] == KEPT
    assert (found["history_events"], await server.held()) == (2, 2)
    assert found["timings_ms"]["append"] >= 0
    # As two requests, to a server that knows nothing of the first.
    other = Server(served_artifact)
    appended = (await other.post("/v1/users/42/events", {"events": EVENTS})).json()
    assert appended == {"user_id": "42", **KEPT}
    wanted = (await other.post(path, {k: v for k, v in body.items() if k != "events"})).json()
    assert wanted["items"] == found["items"]
    assert wanted["appended"] is None


async def test_the_same_events_again_are_duplicates(server) -> None:
    first = (await server.post("/v1/rank", RANK)).json()
    again = (await server.post("/v1/rank", RANK)).json()
    assert again["appended"] == {**KEPT, "accepted": 0, "duplicates": 2}
    assert again["items"] == first["items"]
    assert await server.held() == 2


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"events": []}, "events"),
        ({"events": [EVENTS[0], {**EVENT, "action": "sniff"}]}, "events[1].action"),
        ({"events": [EVENTS[0], {**EVENT, "timestamp": 2**35}]}, "events[1].timestamp"),
        ({"events": [{**EVENT, "event_id": ""}]}, "events[0].event_id"),
        ({"events": [{k: v for k, v in EVENT.items() if k != "event_id"}]}, "events[0].event_id"),
        ({"events": [{**EVENT, "item_id": "shoe"}]}, "events[0].item_id"),
        ({"user_id": None, "history": []}, "events"),
        ({"history": []}, "events"),
        ({"user_id": ""}, "user_id"),
        ({"candidates": [1001, 77]}, "candidates[1]"),
        ({"candidates": [1001, 1001]}, "candidates[1]"),
        ({"order_by": "beauty"}, "order_by"),
        ({"strategy": "magic"}, "strategy"),
        ({"now": -1}, "now"),
    ],
)
async def test_what_is_wrong_keeps_nothing(server, change, field) -> None:
    answer = await server.post("/v1/rank", {**RANK, **change})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field
    assert await server.held() == 0


@pytest.mark.parametrize(
    ("change", "field"), [({"k": 0}, "k"), ({"allow": []}, "allow"), ({"allow": [77]}, "allow")]
)
async def test_a_wrong_recommendation_keeps_nothing(server, change, field) -> None:
    answer = await server.post("/v1/recommend", {**RECOMMEND, **change})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert await server.held() == 0


async def test_an_engine_that_fails_keeps_the_events(server, monkeypatch) -> None:
    def fail(_: Any) -> Any:
        raise EngineError("engine torch: it failed")

    with monkeypatch.context() as patched:
        patched.setattr(server.engine, "rank", fail)
        failed = await server.post("/v1/rank", RANK)
    assert (failed.status_code, failed.json()["error"]["field"]) == (503, "engine")
    assert await server.held() == 2
    again = await server.post("/v1/rank", RANK)
    assert again.json()["appended"] == {**KEPT, "accepted": 0, "duplicates": 2}
    assert again.json()["history_events"] == 2


async def test_a_queue_that_refuses_keeps_the_events(served_artifact, monkeypatch) -> None:
    server = Server(served_artifact, running=1, waiting=0)
    go, rank = asyncio.Event(), server.engine.rank

    async def slow(call: Any) -> Any:
        await go.wait()
        return await rank(call)

    monkeypatch.setattr(server.engine, "rank", slow)
    first = asyncio.create_task(server.post("/v1/rank", {**RANK, "user_id": 1}))
    while not server.front.admission.running:
        await asyncio.sleep(0)
    refused = await server.post("/v1/rank", RANK)
    assert refused.status_code == 429
    assert await server.held() == 2
    go.set()
    assert (await first).status_code == 200
    again = await server.post("/v1/rank", RANK)
    assert again.json()["appended"]["duplicates"] == 2


async def test_a_store_that_does_not_answer_is_a_503(served_artifact) -> None:
    server = Server(served_artifact, FailingStore(events_per_user=512, max_users=9))
    answer = await server.post("/v1/rank", RANK)
    assert (answer.status_code, answer.json()["error"]["field"]) == (503, "store")
    assert server.front.admission.running == 0


async def test_a_store_that_takes_too_long_is_a_503(served_artifact) -> None:
    class SlowStore(MemoryStore):
        async def update(self, *_: Any) -> Any:
            await asyncio.Event().wait()

    server = Server(served_artifact, SlowStore(events_per_user=512, max_users=9))
    headers = {"X-Request-Timeout-Ms": "5"}
    for path, body in (("/v1/rank", RANK), ("/v1/batch", {"requests": [RANK]})):
        answer = await server.client.post(path, json=body, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["field"] == "server"
    assert await server.held() == 0


async def test_a_server_without_users_says_so(served_artifact) -> None:
    answer = await Server(served_artifact, users=False).post("/v1/rank", RANK)
    assert answer.json()["error"] == {"field": "events", "message": "this server keeps no users"}


async def test_visits_in_a_batch(server) -> None:
    other = {**RECOMMEND, "user_id": 7}
    wrong = {**RANK, "user_id": 8, "candidates": []}
    bad_event = {**RANK, "user_id": 9, "events": [{**EVENT, "action": "sniff"}]}
    requests = [RANK, other, wrong, bad_event, {"user_id": 42, "k": 1, "now": 1000}]
    answers = (await server.post("/v1/batch", {"requests": requests})).json()["answers"]
    assert [answers[0]["appended"], answers[1]["appended"]] == [KEPT, KEPT]
    assert answers[2]["error"]["field"] == "candidates"
    assert answers[3]["error"]["field"] == "events[0].action"
    # Kept before the first is answered, so that the others see it.
    assert (answers[4]["history_events"], answers[4]["appended"]) == (2, None)
    assert await server.store.read("8") is None
    assert await server.store.read("9") is None
    alone = (await server.post("/v1/rank", {**RANK, "events": EVENTS[:1]})).json()
    assert alone["items"] == answers[0]["items"]


def test_the_openapi_page_has_it(server) -> None:
    schemas = server.client._transport.app.openapi()
    for path in ("/v1/rank", "/v1/recommend"):
        body = schemas["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert "event_id" in str(body["schema"]["properties"]["events"])
    assert "appended" in schemas["components"]["schemas"]["AnswerBody"]["properties"]
