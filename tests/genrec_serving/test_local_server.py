"""Starting, failing to start, and stopping a server process."""

import time

import httpx
import pytest

from genrec_model.errors import EngineError
from genrec_serving.local_server import LocalModelServer

pytestmark = pytest.mark.slow


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
    start = time.monotonic()
    server.stop()
    server.stop()
    assert not server.running
    assert server._process.returncode == 0
    assert time.monotonic() - start < 15
    assert "Traceback" not in (tmp_path / "server.log").read_text()
