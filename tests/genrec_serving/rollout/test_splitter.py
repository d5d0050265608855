from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from genrec_model.errors import ConfigError
from genrec_serving.rollout.splitter import Backend, Routing, Splitter, bucket, user_key
from genrec_serving.rollout.splitter_server import running

STABLE = Backend(base_url="http://127.0.0.1:1", version="7")
CANARY = Backend(base_url="http://127.0.0.1:2", version="8")


def echo(name: str) -> Starlette:
    async def answer(request: Request) -> Response:
        if request.url.path == "/broken":
            return JSONResponse({"error": name}, status_code=500)
        if request.url.path == "/huge":
            return Response(b"x" * 5000)
        if request.url.path == "/gzip":
            return Response(gzip.compress(b"plain"), headers={"Content-Encoding": "gzip"})
        if request.url.path == "/dies":
            raise SystemError("the connection ends here")
        return JSONResponse(
            {
                "server": name,
                "method": request.method,
                "path": request.scope["raw_path"].decode(),
                "query": request.url.query,
                "body": (await request.body()).decode(),
                "user": request.headers.get("X-User-Id"),
                "traced": request.headers.get("traceparent"),
            },
            headers={"X-Genrec-Version": "a lie", "Set-Cookie": "a=b"},
        )

    methods = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
    return Starlette(routes=[Route("/{path:path}", answer, methods=methods)])


@pytest.fixture(scope="module")
def backends() -> Iterator[tuple[Backend, Backend]]:
    with ExitStack() as stack:
        urls = [stack.enter_context(running(echo(name))) for name in ("stable", "canary")]
        yield Backend(base_url=urls[0], version="7"), Backend(base_url=urls[1], version="8")


@pytest.fixture
def split(backends: tuple[Backend, Backend]) -> Iterator[tuple[Splitter, httpx.Client]]:
    routing = Routing(stable=backends[0], canary=backends[1], canary_percent=50)
    splitter = Splitter(routing, max_request_bytes=1000, max_response_bytes=4000, timeout_s=5)
    with (
        running(splitter.app) as base_url,
        httpx.Client(base_url=base_url, trust_env=False) as client,
    ):
        yield splitter, client


def ask(client: httpx.Client, user: str) -> tuple[str, str, str]:
    answer = client.post("/v1/recommend", json={"user_id": user})
    return (
        answer.json()["server"],
        answer.headers["X-Genrec-Arm"],
        answer.headers["X-Genrec-Version"],
    )


def test_share_stickiness_and_headers(split: tuple[Splitter, httpx.Client]) -> None:
    splitter, client = split
    users = [f"user-{number}" for number in range(200)]
    first = [ask(client, user) for user in users]
    assert set(first) == {("stable", "stable", "7"), ("canary", "canary", "8")}
    assert 70 <= Counter(first)["canary", "canary", "8"] <= 130
    assert [ask(client, user) for user in users] == first
    splitter.set_canary_percent(75)
    grown = [ask(client, user) for user in users]
    assert all(
        now[0] == "canary" for then, now in zip(first, grown, strict=True) if then[0] == "canary"
    )
    splitter.set_canary_percent(0)
    assert {ask(client, user)[0] for user in users[:20]} == {"stable"}
    splitter.set_canary_percent(100)
    assert {ask(client, user)[0] for user in users[:20]} == {"canary"}
    health = client.get("/-/health").json()
    assert health["canary_percent"] == 100
    counted = [health["arms"][arm]["requests"] for arm in ("stable", "canary")]
    assert sum(counted) == 640


def test_requests_pass_unchanged(split: tuple[Splitter, httpx.Client]) -> None:
    splitter, client = split
    splitter.set_canary_percent(100)
    answer = client.put(
        "/v2/models/genrec%2Fa/infer?x=1&y=%20",
        content=b"bytes \xc3\xa9",
        headers={"X-User-Id": "u", "traceparent": "00-1-2-3"},
    )
    seen = answer.json()
    assert seen["method"] == "PUT"
    assert seen["path"] == "/v2/models/genrec%2Fa/infer"
    assert seen["query"] == "x=1&y=%20"
    assert seen["body"] == "bytes é"
    assert (seen["user"], seen["traced"]) == ("u", "00-1-2-3")
    assert answer.headers.get_list("X-Genrec-Version") == ["8"]
    assert answer.headers["Set-Cookie"] == "a=b"
    assert client.get("/gzip").text == "plain"
    assert client.head("/anything").status_code == 200


def test_limits_and_errors(split: tuple[Splitter, httpx.Client]) -> None:
    splitter, client = split
    splitter.set_canary_percent(100)
    assert client.post("/v1/rank", content=b"x" * 1001).status_code == 413
    streamed = client.post("/v1/rank", content=(b"x" * 600 for _ in range(2)))
    assert streamed.status_code == 413
    assert "1000 bytes" in streamed.json()["error"]
    huge = client.get("/huge")
    assert (huge.status_code, huge.headers["X-Genrec-Arm"]) == (502, "canary")
    assert client.get("/broken").status_code == 500
    assert client.get("/dies").status_code == 500
    counter = splitter.counters["canary"]
    assert (counter.requests, counter.errors) == (3, 3)
    with pytest.raises(ConfigError, match="101"):
        splitter.set_canary_percent(101)


def test_a_server_that_is_down(backends: tuple[Backend, Backend]) -> None:
    splitter = Splitter(Routing(stable=backends[0], canary=CANARY, canary_percent=100))
    with running(splitter.app) as base_url:
        for _ in range(3):
            answer = httpx.post(f"{base_url}/v1/recommend", json={"user_id": 1}, trust_env=False)
            assert answer.status_code == 502
            assert "canary server does not answer" in answer.json()["error"]
            assert answer.headers["X-Genrec-Arm"] == "canary"
        splitter.set_canary_percent(0)
        answer = httpx.post(f"{base_url}/v1/recommend", json={"user_id": 1}, trust_env=False)
        assert answer.status_code == 200


def test_a_port_that_is_taken(backends: tuple[Backend, Backend]) -> None:
    port = int(backends[0].base_url.rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"), running(echo("late"), port=port):
        raise AssertionError


def test_one_server_gets_everything() -> None:
    assert Routing(stable=None, canary=CANARY).choose("u") == ("canary", CANARY)
    assert Routing(stable=STABLE, canary=None, canary_percent=100).choose("u") == ("stable", STABLE)
    with pytest.raises(ConfigError):
        Routing(stable=None, canary=None)


@given(st.text(), st.text(), st.lists(st.floats(0, 100), min_size=2, max_size=8))
def test_a_growing_share_moves_users_one_way(user: str, salt: str, shares: list[float]) -> None:
    arms = [
        Routing(stable=STABLE, canary=CANARY, canary_percent=share, salt=salt).choose(user)[0]
        for share in sorted(shares)
    ]
    assert arms == sorted(arms, reverse=True)  # "stable" > "canary"


@given(st.text())
def test_nobody_at_0_and_everybody_at_100(user: str) -> None:
    assert 0 <= bucket(user) < 10_000
    for share, arm in ((0, "stable"), (100, "canary")):
        routing = Routing(stable=STABLE, canary=CANARY, canary_percent=share)
        assert routing.choose(user)[0] == arm


@given(st.binary())
def test_any_body_has_a_key(body: bytes) -> None:
    key = user_key("/v1/recommend", {}, body)
    assert key == user_key("/v1/recommend", {}, body)


def test_keys() -> None:
    body = json.dumps({"user_id": 42}).encode()
    assert user_key("/v1/recommend", {}, body) == "42"
    assert user_key("/v1/rank", {"X-User-Id": "7"}, body) == "7"
    assert user_key("/v1/users/42/events", {}, b"{}") == "42"
    anonymous = user_key("/v1/rank", {}, b'{"user_id": null}')
    assert anonymous != user_key("/v1/rank", {}, b'{"user_id": null }')
    assert user_key("/v1/rank", {}, b"[" * 100_000)
    assert user_key("/v2/models/m/infer", {}, body) != "42"
