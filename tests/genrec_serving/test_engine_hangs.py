"""An engine process that hangs under load: it is killed, and comes back with the same answers.

The server notices a process that dies by itself too, as `test_vllm_processes` has it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from genrec_serving.local_server import LocalModelServer

pytestmark = pytest.mark.slow

WORKER = "genrec_serving.engines.vllm_worker"


class Visitors:
    """Threads that ask again and again, and what they were told."""

    def __init__(self, url: str, body: object) -> None:
        self.statuses: set[int] = set()
        self._stop = threading.Event()
        self._url, self._body = url, body
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self) -> None:
        with httpx.Client(timeout=60) as client:
            while not self._stop.is_set():
                answer = client.post(self._url, json=self._body)
                assert answer.status_code == 200 or "retry-after" in answer.headers
                self.statuses.add(answer.status_code)
                if answer.status_code != 200:
                    self._stop.wait(0.3)  # the engine needs the cores to start


def until(happened: Callable[[], bool], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_an_engine_process_that_hangs_is_killed_and_comes_back(
    served_artifact, truth, tmp_path
) -> None:
    with LocalModelServer(
        served_artifact.path,
        log=tmp_path / "server.log",
        kv_cache_mb=16,
        options=["--engine-processes", "1", "--hang-s", "3"],
    ) as server:
        url = f"{server.base_url}/v1/recommend"
        body = {"history": truth.events_json(30, seed=3), "now": truth.now}

        def scores() -> list[float]:
            return [item["score"] for item in httpx.post(url, json=body).json()["items"]]

        def ready() -> bool:
            return httpx.get(f"{server.base_url}/readyz").status_code == 200

        before = scores()
        visitors = Visitors(url, body)
        try:
            until(lambda: 200 in visitors.statuses)
            (worker,) = [
                child
                for child in psutil.Process(server.pid).children()
                if WORKER in child.cmdline()
            ]
            worker.suspend()
            until(lambda: not ready())
            worker.wait(10)
            assert httpx.get(f"{server.base_url}/healthz").status_code == 200
            until(ready)
        finally:
            visitors.stop()
        assert visitors.statuses == {200, 503}
        assert scores() == pytest.approx(before, abs=1e-4)
        stats = httpx.get(f"{server.base_url}/v1/stats").json()
        assert stats["strategies"]["engine"]["restarts"] == 1
        assert stats["admission"]["running"] == 0
        metrics = httpx.get(f"{server.base_url}/metrics").text
        assert 'genrec_engine_restarts_total{engine="vllm",outcome="done"} 1.0' in metrics
