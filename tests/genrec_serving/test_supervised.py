"""An engine that dies or hangs: what becomes of requests, and how it comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from genrec_model.errors import EngineError, EngineRestarting
from genrec_model.features.rows import history_rows
from genrec_serving.engines import supervised
from genrec_serving.engines.interface import RankCall, Scored, ScoringEngine
from genrec_serving.engines.supervised import Backoff, SupervisedEngine

NONE = np.empty(0, np.int64)
CALL = RankCall(
    rows=history_rows(NONE, NONE, NONE, now=5), now=5, candidates=np.array([3], np.int64)
)
SCORED = Scored(
    items=np.array([3]),
    scores=np.zeros(1, np.float32),
    task_logits=np.zeros((1, 0), np.float32),
)


class Engine(ScoringEngine):
    """Answers when it is told to, until it dies."""

    name = "fragile"

    def __init__(self) -> None:
        self.alive = True
        self.closed = False
        self.stalled = 0.0
        self.closes = True
        self.go = asyncio.Event()
        self.go.set()
        self.calls = 0

    @property
    def healthy(self) -> bool:
        return self.alive

    @property
    def stalled_s(self) -> float:
        return self.stalled

    def abandon(self, cause: str) -> None:
        self.alive = False
        self.cause = cause
        self.go.set()

    async def recommend(self, call: Any) -> Scored:
        return await self.rank(call)

    async def rank(self, call: Any) -> Scored:
        self.calls += 1
        await self.go.wait()
        if not self.alive:
            raise EngineError("engine fragile: out of everything")
        return SCORED

    async def statistics(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def close(self) -> None:
        self.closed = True
        if not self.closes:
            raise EngineError("it hangs")


class Shop:
    """Makes engines, or fails to; restarts wait until the test says so."""

    def __init__(self, hang_s: float = 30.0, **backoff: Any) -> None:
        self.now = 100.0
        self.made: list[Engine] = []
        self.failures: list[Exception] = []
        self.delays: list[float] = []
        self.may_start = asyncio.Event()
        self.engine = SupervisedEngine(
            self.make,
            backoff=Backoff(**backoff),
            hang_s=hang_s,
            sleep=self.sleep,
            clock=lambda: self.now,
        )

    def make(self) -> Engine:
        if self.failures:
            raise self.failures.pop(0)
        self.made.append(Engine())
        return self.made[-1]

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        await self.may_start.wait()

    async def restarted(self) -> None:
        restart = self.engine._restart
        assert restart is not None
        self.may_start.set()
        await asyncio.wait_for(restart, 30)


def restarts(outcome: str) -> float:
    labels = {"engine": "fragile", "outcome": outcome}
    return REGISTRY.get_sample_value("genrec_engine_restarts_total", labels) or 0


async def test_requests_in_flight_and_later_ones_fail_fast_until_it_is_back() -> None:
    shop, before = Shop(), restarts("done")
    assert shop.engine.name == "fragile"
    assert (await shop.engine.rank(CALL)) is SCORED
    shop.made[0].go.clear()
    in_flight = [asyncio.create_task(shop.engine.rank(CALL)) for _ in range(3)]
    while shop.made[0].calls < 4:
        await asyncio.sleep(0)
    shop.made[0].alive = False
    shop.made[0].go.set()
    for task in in_flight:
        with pytest.raises(EngineRestarting, match="out of everything") as caught:
            await task
        assert caught.value.retry_after_s == 0.5
    assert not shop.engine.healthy
    assert shop.engine.describe()["state"] == "restarting"
    assert await shop.engine.statistics() == {}
    with pytest.raises(EngineRestarting):
        await shop.engine.recommend(CALL)
    assert shop.made[0].calls == 4  # the dead one was not asked
    await shop.restarted()
    assert shop.engine.healthy
    assert (await shop.engine.rank(CALL)) is SCORED
    assert len(shop.made) == 2
    assert shop.made[0].closed
    assert shop.made[1].calls == 3  # the probe's two, and ours
    assert await shop.engine.statistics() == {"calls": 3}
    described = shop.engine.describe()
    assert (described["state"], described["restarts"]) == ("running", 1)
    assert restarts("done") == before + 1


async def hang(shop: Shop) -> None:
    """Its engine takes a request and does nothing; those who wait get an error."""
    engine = shop.made[-1]
    engine.go.clear()
    waiting = asyncio.create_task(shop.engine.rank(CALL))
    await asyncio.sleep(0)
    assert shop.engine.healthy
    engine.stalled = 30.0
    assert shop.engine.healthy  # perhaps it was this process that did not run
    shop.now += 1
    assert not shop.engine.healthy
    with pytest.raises(EngineRestarting, match="nothing was finished for 30 s"):
        await waiting
    with pytest.raises(EngineRestarting, match="nothing was finished for 30 s"):
        await shop.engine.rank(CALL)


async def test_one_that_hangs_is_replaced() -> None:
    shop = Shop()
    assert await shop.engine.rank(CALL) is SCORED
    await hang(shop)
    await shop.restarted()
    assert shop.made[0].closed
    assert await shop.engine.rank(CALL) is SCORED
    assert len(shop.made) == 2


async def test_those_who_wait_are_told_though_nobody_looks(monkeypatch) -> None:
    monkeypatch.setattr(supervised, "_LOOK_S", 0.001)
    shop = Shop()
    assert await shop.engine.rank(CALL) is SCORED
    shop.made[0].go.clear()
    waiting = asyncio.create_task(shop.engine.rank(CALL))
    await asyncio.sleep(0)
    shop.made[0].stalled = 31.0
    assert shop.engine.healthy
    shop.now += 1
    with pytest.raises(EngineRestarting):
        await asyncio.wait_for(waiting, 10)
    shop.engine.close()


@pytest.mark.parametrize(("hang_s", "answered"), [(0.0, True), (30.0, False)])
async def test_what_is_not_taken_for_hanging(hang_s: float, answered: bool) -> None:
    shop = Shop(hang_s=hang_s)  # never, or not before the first answer
    if answered:
        await shop.engine.rank(CALL)
    shop.made[0].stalled = 1e6
    for _ in range(3):
        assert shop.engine.healthy
        shop.now += 1


async def test_one_that_goes_on_after_the_first_look_is_left_alone() -> None:
    shop = Shop()
    await shop.engine.rank(CALL)
    for _ in range(3):
        shop.made[0].stalled = 31.0
        assert shop.engine.healthy
        shop.now += 0.5
        shop.made[0].stalled = 0.0
        assert shop.engine.healthy
        shop.now += 0.5


async def test_a_second_one_that_hangs_in_this_process_is_the_last() -> None:
    shop = Shop()
    for count in (1, 2):
        assert await shop.engine.rank(CALL) is SCORED
        shop.made[-1].closes = False
        await hang(shop)
        await shop.restarted()
        assert shop.engine.given_up is (count == 2)
    with pytest.raises(EngineError, match="given up"):
        await shop.engine.rank(CALL)
    assert len(shop.made) == 2


async def test_a_look_at_it_is_enough() -> None:
    shop = Shop()
    shop.made[0].alive = False
    assert not shop.engine.healthy
    await shop.restarted()
    assert shop.engine.healthy


async def test_an_error_of_an_engine_that_lives_is_passed_on() -> None:
    shop = Shop()

    async def refuse(_: Any) -> Scored:
        raise EngineError("too short")

    shop.made[0].rank = refuse
    with pytest.raises(EngineError, match="too short") as caught:
        await shop.engine.rank(CALL)
    assert not isinstance(caught.value, EngineRestarting)
    assert shop.engine.healthy


async def test_failed_tries_wait_longer_and_end() -> None:
    shop, before = Shop(first_s=1.0, longest_s=3.0, tries=4), restarts("failed")
    shop.failures = [EngineError("no memory"), RuntimeError("no luck"), OSError("no"), ValueError()]
    shop.made[0].alive = False
    assert not shop.engine.healthy
    await shop.restarted()
    assert shop.delays == [1.0, 2.0, 3.0, 3.0]
    assert shop.engine.given_up
    assert not shop.engine.healthy
    assert shop.engine.describe()["state"] == "given up"
    assert restarts("failed") == before + 4
    with pytest.raises(EngineError, match="given up") as caught:
        await shop.engine.rank(CALL)
    assert not isinstance(caught.value, EngineRestarting)
    assert len(shop.made) == 1


async def test_one_that_starts_and_does_not_answer_is_no_success() -> None:
    shop = Shop()
    make = shop.make

    def make_dead() -> Engine:
        shop.engine._start = make
        engine = make()
        engine.alive = False
        return engine

    shop.engine._start = make_dead
    shop.made[0].alive = False
    assert not shop.engine.healthy
    await shop.restarted()
    assert shop.engine.healthy
    assert len(shop.made) == 3
    assert shop.made[1].closed
    assert shop.delays == [0.5, 1.0]


async def test_a_closed_one_is_not_started_again() -> None:
    shop = Shop()
    shop.made[0].alive = False
    assert not shop.engine.healthy
    shop.engine.close()
    with pytest.raises(EngineError, match="closed"):
        await shop.engine.rank(CALL)
    shop.may_start.set()
    with pytest.raises(asyncio.CancelledError):
        await shop.engine._restart
    assert len(shop.made) == 1


_FOR_REAL = """
import asyncio, sys, threading
from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, EngineRestarting
from genrec_serving.engines import vllm_engine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.supervised import Backoff, SupervisedEngine
from genrec_serving.engines.interface import RankCall
import numpy as np
from genrec_model.features.rows import history_rows

async def main():
    artifact = Artifact(sys.argv[1])
    engines = []
    build = vllm_engine.build_engine
    def remembering(*arguments, **named):
        engines.append(build(*arguments, **named))
        return engines[-1]
    vllm_engine.build_engine = remembering
    options = VllmOptions(kv_cache_mb=1)
    engine = SupervisedEngine(
        lambda: vllm_engine.VllmEngine(artifact, version="1", options=options),
        backoff=Backoff(first_s=0.01),
    )
    some = np.arange(3, 43)
    rows = history_rows(some, np.full(40, 2), some, now=5)
    call = RankCall(rows=rows, now=100, candidates=np.arange(3, 13))
    before = await engine.rank(call)
    again = await engine.rank(call)
    assert again.cached_rows == 32, again.cached_rows
    def die():
        raise RuntimeError("the device is lost")
    engines[0].step = die
    results = await asyncio.gather(*(engine.rank(call) for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, EngineRestarting) for result in results), results
    assert not engine.healthy
    await engine._restart
    assert engine.healthy and len(engines) == 2
    after = await engine.rank(call)
    assert after.cached_rows == 0
    assert np.allclose(after.scores, before.scores, atol=1e-4)
    assert (await engine.rank(call)).cached_rows == 32
    # Now it hangs: the step blocks, and goes on long after the engine was replaced.
    inner, go, step = engine._engine, threading.Event(), engines[1].step
    def block():
        go.wait(300)
        return step()
    engines[1].step = block
    waiting = [asyncio.create_task(engine.rank(call)) for _ in range(5)]
    while not inner.stalled_s:
        await asyncio.sleep(0.01)
    engine._hang_s = 0.001
    while engine.healthy:
        await asyncio.sleep(0.1)
    engine._hang_s = 30.0
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, EngineRestarting) for result in results), results
    await engine._restart
    assert engine.healthy and len(engines) == 3
    after = await engine.rank(call)
    assert after.cached_rows == 0
    assert np.allclose(after.scores, before.scores, atol=1e-4)
    go.set()
    inner._thread.join(30)
    assert not inner._thread.is_alive()
    after = await engine.rank(call)
    assert after.cached_rows == 32
    assert np.allclose(after.scores, before.scores, atol=1e-4)
    engine.close()
    print("answered the same")

asyncio.run(main())
"""


@pytest.mark.slow
def test_vllm_is_started_again_in_its_process(served_artifact) -> None:
    command = [sys.executable, "-c", _FOR_REAL, str(served_artifact.path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "answered the same" in ran.stdout
