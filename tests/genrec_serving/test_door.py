"""An engine's door, and those who ask there, over an engine that answers when it is told to."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import msgspec
import numpy as np
import pytest

from genrec_model.errors import EngineError, EngineRestarting
from genrec_model.features.rows import history_rows
from genrec_serving.engines.affinity import engine_of
from genrec_serving.engines.connected import ConnectedEngines
from genrec_serving.engines.door import Door
from genrec_serving.engines.interface import RankCall, Scored
from genrec_serving.engines.state import EngineState
from genrec_serving.engines.wire import Ask
from genrec_serving.sockets.frames import FrameReader, frame
from genrec_serving.vllm_plugin.prompt import pack, pack_bytes

RUNNING = EngineState("running")


class FakeEngine:
    """Scores each candidate by the history's length, at once or when told to."""

    def __init__(self, *, patient: bool = False) -> None:
        self.asked: list[tuple[Any, Any, Future[Scored]]] = []
        self.answered: Callable[[], None]
        self.patient = patient
        self.dead = False

    def submit(self, prompt: Any, kwargs: dict[str, Any]) -> Future[Scored]:
        if self.dead:
            raise EngineError("engine vllm: it failed")
        answer: Future[Scored] = Future()
        self.asked.append((prompt, kwargs, answer))
        if not self.patient:
            answer.set_result(self.scored(prompt, kwargs))
        return answer

    @staticmethod
    def scored(prompt: Any, kwargs: dict[str, Any]) -> Scored:
        items = np.frombuffer(kwargs["candidates"], np.int32).astype(np.int64)
        scores = np.full(len(items), len(prompt), np.float32)
        return Scored(items=items, scores=scores, task_logits=scores[:, None], cached_rows=3)

    def current_statistics(self) -> dict[str, Any]:
        return {"item_cache": {"state": "off", "why": "x", "problem": ""}, "asked": len(self.asked)}


def rows(events: int, seed: int = 0) -> Any:
    numbers = np.arange(events) + seed
    return history_rows(numbers + 3, numbers % 2 + 2, numbers + 1000, now=5000)


def call(events: int, seed: int = 0) -> RankCall:
    return RankCall(rows=rows(events, seed), now=5000, candidates=np.array([4, 9]))


class House:
    """Two engines behind doors, and a process that asks them."""

    def __init__(self, folder: Any, **options: Any) -> None:
        self.paths = [str(folder / name) for name in "ab"]
        self.failed: list[str] = []
        self.engines = [FakeEngine(**options) for _ in self.paths]
        self.doors = [
            Door(path, engine, failed=lambda path=path: self.failed.append(path))  # type: ignore[arg-type, misc]
            for path, engine in zip(self.paths, self.engines, strict=True)
        ]
        self.asking: list[ConnectedEngines] = []

    async def come_in(self) -> ConnectedEngines:
        connected = ConnectedEngines(self.paths)
        self.asking.append(connected)
        connected.tell(RUNNING)
        await asyncio.wait_for(connected.wait_until_healthy(), 5)
        return connected


@pytest.fixture
def house(tmp_path) -> Iterator[House]:
    return House(tmp_path)


async def test_all_who_ask_are_answered_by_the_same_engine(house) -> None:
    one, other = await house.come_in(), await house.come_in()
    calls = [call(n, seed) for n in (0, 1, 7, 500) for seed in range(8)]
    found = await asyncio.gather(*(asking.rank(c) for c in calls for asking in (one, other)))
    for i, asked in enumerate(calls):
        for scored in found[2 * i : 2 * i + 2]:
            assert scored.items.tolist() == [4, 9]
            assert scored.scores.tolist() == [len(asked.rows.items)] * 2
            assert (scored.task_logits.shape, scored.cached_rows) == ((2, 1), 3)
    users = [{prompt.numpy().tobytes() for prompt, _, _ in e.asked} for e in house.engines]
    assert users[0]
    assert users[1]
    assert not users[0] & users[1]
    assert {engine_of(c.rows, 2) for c in calls} == {0, 1}
    statistics = await one.statistics()
    assert sum(part["asked"] for part in statistics["processes"]) == 2 * len(calls)
    assert one.describe()["state"] == "running"


async def test_what_nobody_waits_for_is_dropped(tmp_path) -> None:
    house = House(tmp_path, patient=True)
    asking = await house.come_in()
    task = asyncio.create_task(asking.rank(call(5)))
    engine = house.engines[engine_of(call(5).rows, 2)]
    while not engine.asked:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    while not engine.asked[0][2].cancelled():
        await asyncio.sleep(0.01)
    waiting = asyncio.create_task(asking.rank(call(5)))
    while len(engine.asked) < 2:
        await asyncio.sleep(0.01)
    asking.close()
    with pytest.raises(EngineRestarting):
        await waiting
    while not engine.asked[1][2].cancelled():
        await asyncio.sleep(0.01)
    with pytest.raises(EngineError, match="closed"):
        await asking.rank(call(5))


async def test_replies_of_a_step_are_written_together(tmp_path) -> None:
    house = House(tmp_path, patient=True)
    asking = await house.come_in()
    calls = [one for one in (call(5, seed) for seed in range(40)) if engine_of(one.rows, 2) == 0]
    tasks = [asyncio.create_task(asking.rank(one)) for one in calls[:8]]
    engine = house.engines[0]
    while len(engine.asked) < 8:
        await asyncio.sleep(0.01)
    for prompt, kwargs, answer in engine.asked:
        answer.set_result(engine.scored(prompt, kwargs))
    await asyncio.sleep(0.05)
    assert not any(task.done() for task in tasks)
    engine.answered()
    found = await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert all(scored.items.tolist() == [4, 9] for scored in found)


async def test_one_who_does_not_read_stops_nobody_else(house) -> None:
    """A stopped process: its replies wait, the engine's thread does not."""
    deaf = socket.socket(socket.AF_UNIX)
    deaf.connect(house.paths[0])
    candidates = np.zeros(50_000, np.int32).tobytes()
    for number in range(20):
        ask = Ask(number, pack_bytes(rows(3)), {"op": "rank", "now": 1, "candidates": candidates})
        deaf.sendall(frame(msgspec.msgpack.encode(ask)))
    asking = await house.come_in()
    for seed in range(8):
        await asyncio.wait_for(asking.rank(call(3, seed)), 5)
    # What waited is not lost.
    deaf.settimeout(10)
    reader, found = FrameReader(), 0
    while found < 20:
        found += len(list(reader.feed(await asyncio.to_thread(deaf.recv, 1 << 20))))
    deaf.close()


async def test_a_dead_engine_is_reported(house) -> None:
    asking = await house.come_in()
    asked = call(5)
    number = engine_of(asked.rows, 2)
    house.engines[number].dead = True
    with pytest.raises(EngineError, match="it failed"):
        await asking.rank(asked)
    while not house.failed:
        await asyncio.sleep(0.01)
    assert house.failed == [house.paths[number]]


async def test_nobody_is_asked_while_engines_are_started_again(house) -> None:
    asking = await house.come_in()
    asking.tell(EngineState("restarting", 0, "it died"))
    assert not asking.healthy
    with pytest.raises(EngineRestarting):
        await asking.rank(call(1))
    assert await asking.statistics() == {}
    asking.tell(EngineState("given up", 0, "it died"))
    assert asking.given_up
    with pytest.raises(EngineError, match="given up"):
        await asking.rank(call(1))
    with pytest.raises(EngineError, match="given up"):
        await asking.wait_until_healthy()


def test_frames_are_found_however_they_are_cut() -> None:
    messages = [b"", b"a", b"bc" * 1000]
    stream = b"".join(map(frame, messages))
    assert stream[:4] == struct.pack("!i", 0)
    for step in (1, 3, 7, 1000, len(stream)):
        reader, found = FrameReader(), []
        for at in range(0, len(stream), step):
            found += list(reader.feed(stream[at : at + step]))
        assert found == messages


def test_bytes_of_a_history_are_those_of_pytorch() -> None:
    for events in (0, 1, 300):
        assert pack_bytes(rows(events)) == pack(rows(events)).numpy().tobytes()
