"""The guard around an application that does as the test says."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest

from genrec_model.errors import ConfigError
from genrec_serving.surfaces.request_context import CONTEXT
from genrec_serving.surfaces.request_guard import HttpLimits, RequestGuard
from genrec_serving.surfaces.tokens import Tokens


class App:
    """Answers with what it knows of the request, or hangs."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.hangs = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        if self.hangs:
            self.entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        context = CONTEXT.get()
        known = {
            "id": context.request_id,
            "timeout_s": context.timeout_s,
            "bytes": len(body),
            "type": dict(scope["headers"]).get(b"content-type", b"").decode(),
        }
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(known).encode()})


def client_of(guard: RequestGuard) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://test")


def guarded(**options: Any) -> httpx.AsyncClient:
    return client_of(RequestGuard(App(), **options))


async def test_a_request_id_is_echoed_or_made() -> None:
    client = guarded()
    answer = await client.post("/x", headers={"X-Request-Id": "abc-1"})
    assert answer.headers["x-request-id"] == answer.json()["id"] == "abc-1"
    for strange in ("", "a b", "x" * 129, 'a"b'):
        made = await client.post("/x", headers={"X-Request-Id": strange})
        assert re.fullmatch("[0-9a-f]{32}-[0-9a-f]+", made.headers["x-request-id"])
        assert made.json()["id"] == made.headers["x-request-id"]


async def test_a_client_says_how_long_it_waits() -> None:
    client = guarded()
    assert (await client.get("/x")).json()["timeout_s"] is None
    answer = await client.get("/x", headers={"X-Request-Timeout-Ms": "250"})
    assert answer.json()["timeout_s"] == 0.25
    for wrong in ("0", "-1", "1.5", "soon", "600001", "9" * 40, ""):
        answer = await client.get("/x", headers={"X-Request-Timeout-Ms": wrong})
        assert answer.status_code == 400, wrong
        assert answer.json()["error"]["field"] == "x-request-timeout-ms"
        assert answer.headers["x-request-id"]


async def test_large_bodies() -> None:
    client = guarded(limits=HttpLimits(body_bytes=10))

    async def chunks(count: int):
        for _ in range(count):
            yield b"12345"

    assert (await client.post("/x", content=b"1234567890")).json()["bytes"] == 10
    assert (await client.post("/x", content=chunks(2))).json()["bytes"] == 10
    for content in (b"1" * 11, chunks(3)):
        answer = await client.post("/v2/x", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"] == "body: is larger than 10 bytes"


async def test_a_body_that_does_not_arrive() -> None:
    app = App()
    guard = RequestGuard(app, limits=HttpLimits(body_s=0.001))
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await guard({"type": "http", "path": "/x", "method": "POST", "headers": []}, receive, send)
    assert sent[0]["status"] == 408


async def test_content_types_are_made_plain() -> None:
    client = guarded()
    for given in ("application/json; charset=utf-8", "APPLICATION/JSON"):
        answer = await client.post("/x", content=b"1", headers={"content-type": given})
        assert answer.json()["type"] == "application/json"


@pytest.mark.parametrize("early", [True, False])
async def test_a_client_that_hangs_up_stops_the_work(early: bool) -> None:
    app = App()
    app.hangs = True
    hang_up = asyncio.Event()
    messages = [] if early else [{"type": "http.request", "body": b"x", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "path": "/x", "method": "POST", "headers": []}
    request = asyncio.create_task(RequestGuard(app)(scope, receive, send))
    if not early:
        await app.entered.wait()
    hang_up.set()
    await request
    assert app.cancelled.is_set() is not early


async def test_a_stopped_server_stops_the_work() -> None:
    app = App()
    app.hangs = True

    async def receive() -> Any:
        if app.entered.is_set():
            await asyncio.Event().wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(_: Any) -> None:
        """Nothing is sent."""

    scope = {"type": "http", "path": "/x", "method": "POST", "headers": []}
    request = asyncio.create_task(RequestGuard(app)(scope, receive, send))
    await app.entered.wait()
    await asyncio.sleep(0)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    await app.cancelled.wait()


async def test_tokens(tmp_path) -> None:
    path = tmp_path / "tokens"
    path.write_text("first-secret\n\n  second-secret \n")
    client = guarded(tokens=Tokens(path))
    for token in ("first-secret", "second-secret"):
        answer = await client.get("/v1/stats", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200
    for wrong in ("Bearer x", "Bearer ", "Basic first-secret", "first-secret", "", "Bearer first"):
        answer = await client.get("/v1/stats", headers={"Authorization": wrong})
        assert answer.status_code == 401, wrong
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "secret" not in answer.text
    assert (await client.get("/docs")).status_code == 401
    for open_path in ("/healthz", "/readyz", "/metrics", "/v2/health/ready"):
        assert (await client.get(open_path)).status_code == 200


def test_files_of_tokens(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no file of tokens"):
        Tokens(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(ConfigError, match="has no token"):
        Tokens(tmp_path / "empty")
    with pytest.raises(ConfigError, match="makes no sense"):
        HttpLimits(body_bytes=0)
