"""Both clients against a server that does as the test says, and against the real one."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from genrec_model.errors import ConfigError, EngineError, Overloaded, RequestError
from genrec_serving.client import Answer, AsyncClient, Client, Connection, Event, Failed, Query

ANSWER = {
    "items": [{"item_id": 3, "title": "Thing", "score": 1.5, "tasks": {"engagement": 0.5}}],
    "model": {"name": "tiny", "version": "7"},
    "strategy": "vllm",
    "fallback": None,
    "history_events": 3,
    "cached_events": 2,
    "timings_ms": {"total": 1.0},
    "something_new": 1,
}
EVENT = Event(item_id=1000, action="view", timestamp=5)
Handler = Callable[[httpx.Request], httpx.Response]


class Caller:
    """One of the two clients; its calls are awaited where they have to be."""

    def __init__(self, kind: str, handler: Handler, connection: Connection | None = None) -> None:
        self.waits: list[float] = []
        transport = httpx.MockTransport(handler)
        if kind == "sync":
            self.client: Any = Client(
                "http://x", connection, transport=transport, sleep=self.waits.append
            )
        else:
            self.client = AsyncClient(
                "http://x", connection, transport=transport, sleep=self._sleep
            )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    async def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        result = getattr(self.client, method)(*arguments, **named)
        return await result if inspect.isawaitable(result) else result


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Caller]:
    return lambda *arguments: Caller(request.param, *arguments)


def reply(status: int, body: Any, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, json=body, headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


async def test_events_that_come_with_a_question(call) -> None:
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        if len(sent) == 1:
            return reply(503, {"error": {"field": "engine", "message": "no"}}, retry_after="0")
        kept = {"accepted": 0, "duplicates": 1, "too_old": 0, "unknown_items": 0, "held": 1}
        return reply(200, {**ANSWER, "appended": kept})

    answer = await call(handler)("rank", [1, 2], user_id=4, events=[EVENT])
    assert answer.appended.duplicates == 1
    assert sent[0] == sent[1], "the same ids in every try"
    assert sent[0]["events"][0].pop("event_id")
    assert sent[0] == {
        "user_id": 4,
        "candidates": [1, 2],
        "events": [{"item_id": 1000, "action": "view", "timestamp": 5}],
    }


async def test_questions_and_answers(call) -> None:
    seen: list[tuple[str, str, Any]] = []
    users: list[str | None] = []

    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        users.append(request.headers.get("x-user-id"))
        seen.append((request.method, request.url.raw_path.decode(), body))
        assert request.headers["authorization"] == "Bearer s"
        assert request.headers["x-request-timeout-ms"] == "2500"
        if request.url.path == "/v1/batch":
            failed = {"error": {"field": "k", "message": "no"}, "status": 422}
            return reply(200, {"answers": [ANSWER, failed]})
        return reply(200, ANSWER)

    caller = call(handler, Connection(token="s", timeout_s=2.5))
    answer = await caller("recommend", user_id=42, k=5)
    assert isinstance(answer, Answer)
    assert (answer.items[0].item_id, answer.model.version) == (3, "7")
    await caller("rank", [1, 2], history=[EVENT], order_by="score")
    answers = await caller("ask_all", [Query(user_id=1), Query(user_id="b", candidates=[1])])
    assert [type(part) for part in answers] == [Answer, Failed]
    await caller("close")
    assert users == ["42", None, None]
    assert seen == [
        ("POST", "/v1/recommend", {"user_id": 42, "k": 5}),
        (
            "POST",
            "/v1/rank",
            {
                "history": [{"item_id": 1000, "action": "view", "timestamp": 5}],
                "candidates": [1, 2],
                "order_by": "score",
            },
        ),
        ("POST", "/v1/batch", {"requests": [{"user_id": 1}, {"user_id": "b", "candidates": [1]}]}),
    ]


async def test_events_keep_their_ids_over_all_tries(call) -> None:
    bodies: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        assert request.headers["x-user-id"] == "a%2Fb%20c"
        assert request.url.raw_path == b"/v1/users/a%2Fb%20c/events"
        if len(bodies) == 1:
            raise httpx.ReadTimeout("lost")
        counts = {"accepted": 0, "duplicates": 1, "too_old": 0, "unknown_items": 0, "held": 1}
        return reply(200, counts)

    caller = call(handler)
    appended = await caller("append", "a/b c", [EVENT])
    assert appended.duplicates == 1
    assert bodies[0] == bodies[1]
    assert len(bodies[0]["events"][0]["event_id"]) == 32
    assert caller.waits == [0.2]


async def test_a_busy_server_is_asked_again_when_it_says(call) -> None:
    answers = [
        reply(429, {"error": {"field": "server", "message": "x"}}, retry_after="3"),
        reply(503, {"error": {"field": "engine", "message": "x"}}, retry_after="60"),
        reply(200, ANSWER),
    ]
    caller = call(lambda _: answers.pop(0))
    assert (await caller("recommend", user_id=1)).strategy == "vllm"
    assert caller.waits == [3.0, 5.0]


ERRORS = [
    (reply(429, {"error": {"field": "server", "message": "slow"}}, retry_after="3"), Overloaded),
    (reply(503, {"error": {"field": "server", "message": "slow"}}, retry_after="3"), Overloaded),
    (reply(503, {"error": {"field": "engine", "message": "dead"}}, retry_after="1"), EngineError),
    (reply(503, {"error": {"field": "engine", "message": "none here"}}), EngineError),
    (reply(422, {"error": {"field": "k", "message": "no"}}), RequestError),
    (reply(500, {"error": {"field": "server", "message": "oh"}}), EngineError),
    (httpx.Response(502, text="<html>bad gateway</html>"), EngineError),
    (httpx.Response(200, text="not json"), EngineError),
    (reply(200, {"items": 3}), EngineError),
]


@pytest.mark.parametrize(("response", "kind"), ERRORS)
async def test_errors(call, response, kind) -> None:
    count = []

    def handler(_: httpx.Request) -> httpx.Response:
        count.append(1)
        return httpx.Response(
            response.status_code, content=response.content, headers=response.headers
        )

    caller = call(handler)
    with pytest.raises(kind) as caught:
        await caller("recommend", user_id=1)
    assert type(caught.value) is kind
    assert len(count) == (3 if "retry-after" in response.headers else 1)
    if kind is RequestError:
        assert (caught.value.field, caught.value.status) == ("k", 422)


async def test_a_server_that_is_not_there(call) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    caller = call(handler, Connection(retries=1))
    with pytest.raises(EngineError, match="does not answer"):
        await caller("stats")
    assert len(caller.waits) == 1


def test_connections_that_make_no_sense() -> None:
    for wrong in ({"timeout_s": 0}, {"retries": -1}, {"timeout_s": 601}):
        with pytest.raises(ConfigError) as caught:
            Connection(token="secret", **wrong)
        assert "secret" not in str(caught.value)


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, genrec_serving.client; print(*{m.split('.')[0] for m in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "vllm", "kserve", "polars", "pandas"} & set(ran.stdout.split())


@pytest.mark.slow
async def test_the_real_server(server) -> None:
    with Client(server.base_url) as client:
        assert client.append("client-1", [EVENT, EVENT]).accepted == 2
        user = client.user("client-1")
        assert (user.held, user.events[0].item_id) == (2, 1000)
        answer = client.recommend(user_id="client-1", k=2)
        assert (len(answer.items), answer.history_events) == (2, 2)
        assert client.rank([1001, 1002], user_id="client-1").items[0].tasks.keys() == {
            "engagement", "retention",
        }  # fmt: skip
        parts = client.ask_all([Query(user_id="client-1", k=1), Query(user_id="nobody")])
        assert isinstance(parts[0], Answer)
        assert parts[1].status == 404
        assert client.forget("client-1")
        with pytest.raises(RequestError, match="unknown"):
            client.user("client-1")
    async with AsyncClient(server.base_url) as other:
        assert (await other.stats())["model"]["name"] == "tiny"
        assert len((await other.recommend(history=[], k=3)).items) == 3
