"""What becomes of requests when vLLM fails: a stand-in for its engine, our thread for real."""

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from genrec_model.errors import EngineError, EngineUnavailable
from genrec_serving.engines import vllm_engine
from genrec_serving.engines.interface import RankCall
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.vllm_options import VllmOptions

pytestmark = pytest.mark.slow


class BrokenEngine:
    """Takes requests, and fails in its first step, or never finishes one."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.answers = False
        self.dropped: list[str] = []
        self.has_dropped = threading.Event()

    def close(self) -> None:
        """Nothing to give back."""

    def add(self, request_id: str, prompt: Any, kwargs: Any) -> None:
        """Refuses histories of one row, as vLLM refuses what does not fit."""
        if len(prompt) == 1:
            raise ValueError("too short\nfor me")

    def drop(self, request_id: str) -> None:
        self.dropped.append(request_id)
        self.has_dropped.set()

    def step(self) -> list[Any]:
        self.entered.set()
        self.go.wait(10)
        if self.answers:
            time.sleep(0.001)
            return []
        raise RuntimeError("out of everything")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> BrokenEngine:
    engine = BrokenEngine()
    monkeypatch.setattr(vllm_engine, "build_engine", lambda *_, **__: engine)
    return engine


def call(truth, events: int) -> RankCall:
    return RankCall(rows=truth.rows(events), now=truth.now, candidates=np.array([3]))


async def test_a_failed_step_fails_all_requests_and_later_ones(broken, served_artifact, truth):
    engine = VllmEngine(served_artifact, version="1", options=VllmOptions())
    first = asyncio.create_task(engine.rank(call(truth, 5)))
    await asyncio.to_thread(broken.entered.wait, 10)
    waiting = asyncio.create_task(engine.rank(call(truth, 6)))
    await asyncio.sleep(0.05)
    assert engine.healthy
    broken.go.set()
    for task in (first, waiting):
        with pytest.raises(EngineError, match="out of everything"):
            await asyncio.wait_for(task, 10)
    assert not engine.healthy
    with pytest.raises(EngineError, match="out of everything"):
        await engine.rank(call(truth, 5))
    engine.close()


async def test_what_nobody_waits_for_is_dropped(broken, served_artifact, truth) -> None:
    broken.answers = True
    engine = VllmEngine(served_artifact, version="1", options=VllmOptions())
    tasks = [asyncio.create_task(engine.rank(call(truth, 5))) for _ in range(3)]
    broken.go.set()
    while len(engine._pending) < 3:
        await asyncio.sleep(0.001)
    tasks[1].cancel()
    await asyncio.to_thread(broken.has_dropped.wait, 10)
    assert broken.dropped == ["1"]
    assert engine._pending.keys() == {"0", "2"}
    assert engine.healthy
    engine.close()
    for task in (tasks[0], tasks[2]):
        with pytest.raises(EngineError, match="closed"):
            await task


async def test_a_refused_request_fails_alone(broken, served_artifact, truth) -> None:
    engine = VllmEngine(served_artifact, version="1", options=VllmOptions())
    with pytest.raises(EngineError, match=r"too short$"):
        await asyncio.wait_for(engine.rank(call(truth, 0)), 10)
    assert engine.healthy
    engine.close()


async def test_a_closed_engine_answers_no_more(broken, served_artifact, truth) -> None:
    engine = VllmEngine(served_artifact, version="1", options=VllmOptions())
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        await engine.rank(call(truth, 5))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ImportError("no module vllm"), EngineUnavailable), (RuntimeError("no memory"), EngineError)],
)
def test_a_failed_start_is_raised(monkeypatch, served_artifact, error, kind) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(vllm_engine, "build_engine", fail)
    with pytest.raises(kind, match=str(error)):
        VllmEngine(served_artifact, version="1", options=VllmOptions())
