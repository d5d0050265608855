"""Two processes that take requests, before two engines: as one server, and when one dies."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest

from genrec_serving.local_server import LocalModelServer

pytestmark = pytest.mark.slow

NOW = 1_700_000_000
OPTIONS = ("--http-processes", "2", "--engine-processes", "2", "--drain-s", "1")
CANDIDATES = [1001, 1005, 1020]


def children(server: LocalModelServer, module: str) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(server.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended just now
            if f"genrec_serving.{module}" in child.cmdline():
                found.append(child)
    return found


def fronts(server: LocalModelServer) -> list[psutil.Process]:
    return children(server, "fronts.front_process")


class Caller:
    """A client on one connection, which one of the processes has."""

    def __init__(self, server: LocalModelServer) -> None:
        self._server = server
        self.http = httpx.Client(base_url=server.base_url, timeout=30)
        assert self.http.get("/healthz").status_code == 200

    @property
    def pid(self) -> int:
        (connection,) = self.http._transport._pool.connections  # type: ignore[attr-defined]
        stream = connection._connection._network_stream
        address = stream.get_extra_info("client_addr")
        for front in fronts(self._server):
            for one in front.connections("tcp"):
                if one.raddr and one.raddr[:2] == address[:2]:
                    return front.pid
        raise AssertionError("nobody has this connection")

    def rank(self, user: str, events: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        body = {"user_id": user, "candidates": CANDIDATES, "now": NOW}
        answer = self.http.post(
            "/v1/rank", json=body if events is None else {**body, "events": events}
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def ready(self) -> bool:
        return self.http.get("/readyz").status_code == 200

    def answered(self) -> float:
        (line,) = (
            line
            for line in self.http.get("/metrics").text.splitlines()
            if line.startswith('genrec_request_seconds_count{strategy="vllm",surface="rest"')
        )
        return float(line.split()[-1])


def wait_for(what: Callable[[], bool], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends, "it did not come"
        time.sleep(0.05)


def with_ids(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [{**event, "event_id": f"{name}-{i}"} for i, event in enumerate(events)]


@pytest.fixture(scope="module")
def running(served_artifact, tmp_path_factory) -> Iterator[LocalModelServer]:
    folder = tmp_path_factory.mktemp("two-fronts")
    options = (*OPTIONS, "--user-store", f"sqlite:{folder}/users.db")
    with LocalModelServer(
        served_artifact.path, log=folder / "server.log", kv_cache_mb=4, options=options
    ) as server:
        wait_for(lambda: all(caller.ready() for caller in both(server)))
        yield server


def both(server: LocalModelServer) -> list[Caller]:
    """A caller at each of the processes: a connection goes to who is loaded and has the fewest."""
    found: dict[int, Caller] = {}

    def come() -> bool:
        caller = Caller(server)
        found[caller.pid] = caller
        return len(found) == 2

    wait_for(come)
    return list(found.values())


def test_both_see_a_user_and_find_their_pages(running, truth) -> None:
    one, other = both(running)
    for user in ("u1", "u2", "u3", "u4", "u5", "u6"):
        events = with_ids(truth.events_json(40, seed=ord(user[1])), user)
        first = one.rank(user, events[:36])
        assert first["appended"]["accepted"] == 36
        assert first["cached_events"] == 0
        second = other.rank(user, events[36:])
        assert (second["appended"]["held"], second["history_events"]) == (40, 40)
        assert second["cached_events"] == 31, "pages that the other process had computed"
        third = one.rank(user)
        assert third["history_events"] == 40
        assert third["items"] == other.rank(user)["items"]
        again = one.rank(user, events)
        assert again["appended"]["duplicates"] == 40
    engines = one.http.get("/v1/stats").json()["engines"]["vllm"]["processes"]
    assert len(engines) == 2


def test_numbers_are_sums(running) -> None:
    one, other = both(running)
    before = one.answered()
    for count, caller in ((3, one), (2, other)):
        for _ in range(count):
            caller.rank(
                "sums", [{"event_id": "s", "item_id": 1003, "action": "view", "timestamp": 5}]
            )
    assert [one.answered(), other.answered()] == [before + 5] * 2
    text = other.http.get("/metrics").text
    assert "genrec_http_processes 2.0" in text
    assert "genrec_places 64.0" in text
    assert text.count("# TYPE genrec_share gauge") == 1
    for caller in (one, other):
        stats = caller.http.get("/v1/stats").json()
        assert stats["http_processes"] == 2
        assert stats["requests"]["answered"]["rest"] == before + 5
        assert stats["admission"]["limits"]["running"] == 64
        assert stats["strategies"]["engine"]["state"] == "running"


def test_a_front_that_is_killed_is_replaced_and_nobody_else_notices(running, truth) -> None:
    one, other = both(running)
    killed = psutil.Process(one.pid)
    before = other.answered()
    stop, failures, answered = threading.Event(), [], []

    def visit(name: str) -> None:
        caller, number = other if name == "other" else Caller(running), 0
        while not stop.is_set():
            number += 1
            event = {
                "event_id": f"{number}",
                "item_id": 1003,
                "action": "view",
                "timestamp": number,
            }
            try:
                answered.append(caller.rank(f"load-{name}", [event])["history_events"])
            except (httpx.TransportError, AssertionError) as error:
                failures.append((name, error))
                caller = Caller(running)

    threads = [threading.Thread(target=visit, args=(n,)) for n in ("other", "a", "b", "c")]
    for thread in threads:
        thread.start()
    time.sleep(1)
    killed.kill()
    wait_for(
        lambda: len(fronts(running)) == 2 and killed.pid not in [f.pid for f in fronts(running)]
    )
    stop.set()
    for thread in threads:
        thread.join()
    assert [name for name, _ in failures if name == "other"] == []
    assert len(failures) <= 3, failures
    assert all(isinstance(error, httpx.TransportError) for _, error in failures)
    assert len(answered) > 20

    wait_for(lambda: all(caller.ready() for caller in both(running)))
    for caller in both(running):
        assert caller.rank("load-other")["history_events"] > 1
        assert caller.answered() >= before, "what it counted before is not lost"


def test_an_engine_that_is_killed_makes_both_unready_until_it_is_back(running) -> None:
    callers = both(running)
    children(running, "engines.vllm_worker")[0].kill()
    wait_for(lambda: not any(caller.ready() for caller in callers), 5)
    body = {"user_id": "u1", "candidates": CANDIDATES, "now": NOW}
    for caller in callers:
        answer = caller.http.post("/v1/rank", json=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert caller.http.get("/healthz").status_code == 200
    wait_for(lambda: all(caller.ready() for caller in callers))
    found = [caller.rank("u1") for caller in callers]
    assert found[0]["items"] == found[1]["items"]
    assert found[1]["cached_events"] > 0
    stats = callers[1].http.get("/v1/stats").json()
    assert stats["strategies"]["engine"]["restarts"] == 1
    assert 'genrec_engine_restarts_total{engine="vllm",outcome="done"} 1.0' in (
        callers[0].http.get("/metrics").text
    )


def test_a_store_that_is_killed_loses_nothing_that_was_acknowledged(running) -> None:
    callers = both(running)
    stop, refused, kept = threading.Event(), [], {}

    def visit(name: str, caller: Caller) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            event = {"event_id": f"{number}", "item_id": 1003, "action": "view", "timestamp": 5}
            body = {"user_id": name, "candidates": CANDIDATES, "now": NOW, "events": [event]}
            answer = caller.http.post("/v1/rank", json=body)
            if answer.status_code == 200:
                kept.setdefault(name, []).append(answer.json()["appended"])
            else:
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                assert "user store: its process ended" in answer.text
                number -= 1  # once more, as a client would
                refused.append(name)
                time.sleep(0.05)

    names = [f"store-{n}" for n in range(4)]
    threads = [
        threading.Thread(target=visit, args=(n, callers[i % 2])) for i, n in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    time.sleep(1)
    (killed,) = children(running, "fronts.store_process")
    killed.kill()
    wait_for(lambda: set(refused) == set(names), 20)
    before = {name: len(kept[name]) for name in names}
    wait_for(lambda: all(len(kept[name]) > before[name] + 3 for name in names), 60)
    stop.set()
    for thread in threads:
        thread.join()
    for name in names:
        # What was not answered may have been kept, and is a duplicate the second time.
        assert all(a["accepted"] + a["duplicates"] == 1 for a in kept[name])
        assert sum(a["duplicates"] for a in kept[name]) <= 1
        assert [a["held"] for a in kept[name]] == list(range(1, len(kept[name]) + 1))
        for caller in callers:
            assert caller.http.get(f"/v1/users/{name}").json()["held"] == len(kept[name])


def test_the_end_is_announced_and_finishes_what_is_in_flight(running) -> None:
    """The last test: it ends the server."""
    callers = both(running)
    process = psutil.Process(running.pid)
    descendants = process.children(recursive=True)
    process.terminate()
    wait_for(lambda: not any(caller.ready() for caller in callers), 5)
    for caller in callers:
        assert caller.rank("u1")["items"]
    wait_for(lambda: not running.running, 30)
    assert running._process.returncode == 0
    assert not [child for child in descendants if child.is_running()]
    assert "Traceback" not in running.log.read_text()


def test_a_port_that_is_taken_is_said_in_one_line(served_artifact, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "genrec_serving.server"]
        command += ["--artifact", str(served_artifact.path), "--http-processes", "2"]
        command += ["--user-store", f"sqlite:{tmp_path}/users.db"]
        command += ["--http-port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 1
    assert "HTTP cannot listen on 127.0.0.1" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_store_that_cannot_be_opened_is_said_in_one_line(served_artifact, tmp_path) -> None:
    (tmp_path / "users.db").write_text("something else, of which SQLite can make nothing")
    command = [sys.executable, "-m", "genrec_serving.server"]
    command += ["--artifact", str(served_artifact.path), "--http-processes", "2"]
    command += ["--user-store", f"sqlite:{tmp_path}/users.db", "--http-port", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 2
    assert "users.db: cannot be opened" in ended.stderr
    assert "Traceback" not in ended.stderr
