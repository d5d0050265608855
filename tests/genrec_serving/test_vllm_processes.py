"""Engines in processes of their own."""

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from genrec_model.errors import EngineError
from genrec_serving.engines.interface import RankCall, RecommendCall
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.vllm_processes import VllmProcesses

pytestmark = pytest.mark.slow

CANDIDATES = np.array([5, 9, 20])


def test_an_engine_on_a_gpu_has_a_process_of_its_own() -> None:
    assert VllmOptions().for_device(cuda=True).processes == 1
    assert VllmOptions().for_device(cuda=False).processes == 0
    assert VllmOptions(processes=0).for_device(cuda=True).processes == 0
    assert VllmOptions(processes=3).for_device(cuda=False).processes == 3


@pytest.fixture(scope="module")
def started(served_artifact) -> Iterator[tuple[VllmProcesses, dict[str, Any]]]:
    options = VllmOptions(kv_cache_mb=2, processes=2, item_cache="0.1")
    made = VllmProcesses(served_artifact, version="1", options=options)
    yield made, asyncio.run(made.statistics())
    made.close()


@pytest.fixture
def engines(started) -> VllmProcesses:
    return started[0]


def test_each_has_answered_before_anybody_asks(started) -> None:
    _, statistics = started
    for one in statistics["processes"]:
        assert one["item_cache"]["accesses"] > 0, "no request was the engine's first one"


async def test_answers_are_those_of_pytorch(engines, truth) -> None:
    users = [truth.rows(n, seed=n) for n in range(0, 60, 3)]
    calls = [RankCall(rows=rows, now=truth.now, candidates=CANDIDATES) for rows in users]
    for found, rows in zip(await asyncio.gather(*map(engines.rank, calls)), users, strict=True):
        truth.assert_same(found, truth.rank(rows, CANDIDATES))
    call = RecommendCall(
        rows=users[7], now=truth.now, k=5, exclude=np.array([3, 4]), allow=np.arange(3, 40)
    )
    expected = truth.recommend(users[7], 5, np.array([3, 4]), np.arange(3, 40))
    truth.assert_same(await engines.recommend(call), expected)


async def test_a_user_finds_the_cache_again(engines, truth) -> None:
    for user in range(8):
        rows = truth.rows(40, seed=100 + user)
        call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
        assert (await engines.rank(call)).cached_rows == 0
        assert (await engines.rank(call)).cached_rows == 32
    assert len({id(engines._engine_of(truth.rows(40, seed=100 + u))) for u in range(8)}) == 2


async def test_statistics_of_each(engines) -> None:
    shown = await engines.statistics()
    found = shown["processes"]
    assert len(found) == 2
    caches = [one["item_cache"] for one in found]
    assert all(cache["state"] == "on" and cache["lookups"] > 0 for cache in caches)
    for counted in ("lookups", "hits", "unique_hits", "copies", "slot_bytes"):
        assert shown["item_cache"][counted] == sum(cache[counted] for cache in caches)
    assert all(one["running"] == 0 and one["dtype"] == "float32" for one in found)
    assert all(0 <= one["kv_cache_usage"] <= 1 for one in found)


async def test_a_refused_request_disturbs_nobody(engines, truth) -> None:
    rows = truth.rows(10, seed=3)
    engine = engines._engine_of(rows)
    too_long = truth.rows(47, seed=4)
    doubled = np.concatenate([too_long.items] * 3)
    long_rows = type(rows)(
        items=doubled, actions=np.zeros_like(doubled), timestamps=np.zeros_like(doubled)
    )
    with pytest.raises(EngineError, match="144 rows is not between 1 and 48"):
        await asyncio.wrap_future(engine.submit(long_rows, {}))
    call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
    truth.assert_same(await engines.rank(call), truth.rank(rows, CANDIDATES))


def test_a_model_that_cannot_be_loaded_says_so(served_artifact, tmp_path) -> None:
    class Missing:
        path = tmp_path / "nothing"

    with pytest.raises(EngineError, match="nothing"):
        VllmProcesses(Missing(), version="1", options=VllmOptions())  # type: ignore[arg-type]


async def test_dropped_requests_are_not_computed(engines, truth) -> None:
    users = [truth.rows(47, seed=800 + u) for u in range(200)]
    calls = [RankCall(rows=rows, now=truth.now, candidates=CANDIDATES) for rows in users]
    tasks = [asyncio.create_task(engines.rank(call)) for call in calls]
    truth.assert_same(await tasks[0], truth.rank(users[0], CANDIDATES))
    for task in tasks:
        task.cancel()
    for call, rows in zip(calls[:8], users, strict=False):
        truth.assert_same(await engines.rank(call), truth.rank(rows, CANDIDATES))
    found = (await engines.statistics())["processes"]
    assert [(one["running"], one["waiting"]) for one in found] == [(0, 0)] * 2
    assert not any(engine._pending for engine in engines._engines)


async def test_a_stopped_process_is_noticed_and_stops_nobody_else(engines, truth) -> None:
    users = [truth.rows(47, seed=500 + u) for u in range(400)]
    first = engines._engines[0]
    mine = [rows for rows in users if engines._engine_of(rows) is first]
    other = next(rows for rows in users if engines._engine_of(rows) is not first)
    assert first.stalled_s < 5
    first._child.send_signal(signal.SIGSTOP)
    # More than the socket holds: whoever asks must not wait for room in it.
    calls = [RankCall(rows=rows, now=truth.now, candidates=CANDIDATES) for rows in mine] * 3
    waiting = [asyncio.create_task(engines.rank(call)) for call in calls]
    await asyncio.sleep(0)
    call = RankCall(rows=other, now=truth.now, candidates=CANDIDATES)
    truth.assert_same(await engines.rank(call), truth.rank(other, CANDIDATES))
    while engines.stalled_s < 1:
        await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    assert engines.healthy
    first._child.send_signal(signal.SIGCONT)
    for found, rows in zip(await asyncio.gather(*waiting), mine * 3, strict=True):
        truth.assert_same(found, truth.rank(rows, CANDIDATES))
    assert engines.stalled_s < 1


async def test_a_killed_process_fails_its_requests_at_once(engines, truth) -> None:
    """The last test: it leaves one engine of two."""
    users = [truth.rows(40, seed=200 + u) for u in range(60)]
    mine = [rows for rows in users if engines._engine_of(rows) is engines._engines[0]]
    calls = [RankCall(rows=rows, now=truth.now, candidates=CANDIDATES) for rows in mine]
    waiting = [asyncio.create_task(engines.rank(call)) for call in calls]
    await asyncio.sleep(0)
    engines._engines[0]._child.send_signal(signal.SIGSTOP)
    engines._engines[0].kill("engine vllm: it hangs, and its process ended")
    results = await asyncio.gather(*waiting, return_exceptions=True)
    failed = [result for result in results if isinstance(result, EngineError)]
    assert len(failed) == len(mine)
    assert "its process ended" in str(failed[0])
    assert not engines.healthy
    with pytest.raises(EngineError, match="its process ended"):
        await engines.rank(calls[0])
