"""Starting, failing to start, and stopping a server process."""

import asyncio
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Callable

import grpc
import httpx
import pytest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelMetadataRequest, ServerReadyRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from genrec_model.errors import EngineError
from genrec_serving.local_server import LocalModelServer
from genrec_serving.users.events import UserState
from genrec_serving.users.sqlite_store import SqliteStore

pytestmark = pytest.mark.slow

BODY = b'{"history": []}'


class HalfSent:
    """A request whose body is not complete."""

    def __init__(self, server: LocalModelServer) -> None:
        self._connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"))
        self._connection.putrequest("POST", "/v1/recommend")
        self._connection.putheader("content-length", str(len(BODY)))
        self._connection.endheaders(BODY[:5])

    def finish(self) -> int:
        self._connection.send(BODY[5:])
        return self._connection.getresponse().status


def until(happened: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def listens(server: LocalModelServer) -> bool:
    port = int(server.base_url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_that_cannot_start_shows_why(tmp_path) -> None:
    with pytest.raises(EngineError, match=r"exit code 2;[\s\S]*no model artifact here"):
        LocalModelServer(tmp_path, log=tmp_path / "server.log", timeout_s=60)


def test_a_server_that_is_too_slow_is_stopped(served_artifact, tmp_path) -> None:
    with pytest.raises(EngineError, match=r"not ready in 0\.5 s"):
        LocalModelServer(served_artifact.path, log=tmp_path / "server.log", timeout_s=0.5)


def test_a_server_stops_gracefully(served_artifact, tmp_path) -> None:
    server = LocalModelServer(
        served_artifact.path, log=tmp_path / "server.log", strategy="torch", timeout_s=60
    )
    answer = httpx.post(f"{server.base_url}/v1/recommend", json={"history": []}).json()
    assert answer["strategy"] == "torch"
    in_flight = HalfSent(server)
    start = time.monotonic()
    os.kill(server.pid, signal.SIGTERM)
    until(lambda: not listens(server))
    assert in_flight.finish() == 200
    server.stop()
    server.stop()
    assert not server.running
    assert server._process.returncode == 0
    assert time.monotonic() - start < 15
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_server_with_tokens_and_a_store_that_drains_and_is_killed(
    served_artifact, tmp_path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-7\n")
    log = tmp_path / "server.log"
    options = ["--token-file", str(tokens), "--drain-s", "600", "--log-format", "json"]
    options += ["--user-store", f"sqlite:{tmp_path}/users.db"]
    shown = {"Authorization": "Bearer secret-7"}
    with LocalModelServer(
        served_artifact.path, log=log, strategy="torch", timeout_s=60, options=options
    ) as server:

        def recommend(headers: dict[str, str]) -> int:
            url = f"{server.base_url}/v1/recommend"
            return httpx.post(url, content=BODY, headers=headers).status_code

        assert recommend({}) == 401
        assert recommend(shown) == 200
        event = {"event_id": "a", "item_id": 1000, "action": "view", "timestamp": 5}
        url = f"{server.base_url}/v1/users/9/events"
        appended = httpx.post(url, json={"events": [event]}, headers=shown)
        assert appended.json()["accepted"] == 1
        with grpc.insecure_channel(server.grpc_url) as channel:
            stub = GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(ServerReadyRequest(), timeout=30).ready
            asked = ModelMetadataRequest(name="genrec")
            with pytest.raises(grpc.RpcError) as caught:
                stub.ModelMetadata(asked, timeout=30)
            assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
            metadata = [("authorization", "Bearer secret-7")]
            assert stub.ModelMetadata(asked, timeout=30, metadata=metadata).name == "genrec"
            os.kill(server.pid, signal.SIGTERM)
            for path in ("/readyz", "/v2/health/ready"):
                url = f"{server.base_url}{path}"
                until(lambda url=url: httpx.get(url).status_code == 503)
            assert not stub.ServerReady(ServerReadyRequest(), timeout=30).ready
        assert httpx.get(f"{server.base_url}/healthz").status_code == 200
        assert recommend(shown) == 200
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("model genrec is ready" in line["message"] for line in lines)
    assert "secret-7" not in log.read_text()

    async def kept() -> UserState | None:
        store = SqliteStore(tmp_path / "users.db", events_per_user=512)
        try:
            return await store.read("9")
        finally:
            await store.close()

    state = asyncio.run(kept())
    assert state is not None
    assert [event.event_id for event in state.events] == ["a"]
