"""Visits a server from one or more processes; `load` is its command line.

The time of a visit counts from when it was due, not from when this program came to send it: a
server that stalls is charged for all who waited meanwhile.
"""

from __future__ import annotations

import asyncio
import multiprocessing.connection
import multiprocessing.process
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import numpy as np

from genrec_model.errors import EngineError
from genrec_serving.bench.workload import LoadPlan, SyntheticUser, arrivals, popularity
from genrec_serving.telemetry.memory import resident_mb

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Barrier

#: Most visits under way in one process; those that come on top are counted as lost.
MAX_OPEN = 4000
#: Most events of one append.
_APPEND = 1000
_PREPARE_S = 600.0
_DAY_S = 86_400
_SAMPLE_S = 0.5
_REFUSED = ("429", "503")
#: The shortest time that the server asks for (`Retry-After`).
_REFUSED_S = 1.0


@dataclass(kw_only=True)
class Measured:
    """What became of visits.

    Args:
        visit_s: from when each answered visit was due until its answer.
        ask_s: of these, from the question alone.
        append_s: time to append a visit's new events.
        outcomes: visits by HTTP status, ``ok``, ``timeout`` or ``lost``.
        history_events, cached_events: of all answers.
        seconds: from the start until the last answer.
        memory_mb: of the server, sampled; empty where its process was not named.
        model: how large it is, in words.
    """

    visit_s: list[float] = field(default_factory=list)
    ask_s: list[float] = field(default_factory=list)
    append_s: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    history_events: int = 0
    cached_events: int = 0
    seconds: float = 0.0
    memory_mb: list[float] = field(default_factory=list)
    model: str = ""

    @property
    def rate(self) -> float:
        """Answered visits a second."""
        return len(self.visit_s) / self.seconds if self.seconds else 0.0

    @property
    def refused(self) -> int:
        """Visits that the server refused: 429 and 503."""
        return sum(self.outcomes[status] for status in _REFUSED)

    @property
    def errors(self) -> int:
        """Visits that went wrong in any other way."""
        return self.outcomes.total() - self.outcomes["ok"] - self.refused

    def percentile_ms(self, percent: float) -> float:
        """Of the visits; not a number where none was answered."""
        return float(np.percentile(self.visit_s, percent)) * 1e3 if self.visit_s else float("nan")

    def add(self, other: Measured) -> None:
        """Count another process in."""
        self.visit_s += other.visit_s
        self.ask_s += other.ask_s
        self.append_s += other.append_s
        self.outcomes += other.outcomes
        self.history_events += other.history_events
        self.cached_events += other.cached_events
        self.seconds = max(self.seconds, other.seconds)
        self.model = self.model or other.model


class _Answer(msgspec.Struct):
    history_events: int
    cached_events: int


class Visitors:
    """The users of one process, and what became of their visits."""

    def __init__(self, plan: LoadPlan, process: int, session: aiohttp.ClientSession) -> None:
        self._plan = plan
        self._numbers, self._rate, self._concurrency = plan.share(process)
        self._session = session
        self._rng = np.random.default_rng((plan.seed, process))
        # NumPy would shuffle the whole catalogue for some candidates.
        self._sample = random.Random(f"{plan.seed}-{process}").sample
        self._shares = popularity(len(self._numbers), plan.zipf)
        self._users: list[SyntheticUser] = []
        self._items: list[Any] = []
        self.measured = Measured()

    async def prepare(self) -> None:
        """Learn the catalogue, and give every user a history.

        Raises:
            EngineError: the server does not answer as it should.
        """
        stats = await self._json("GET", "/v1/stats")
        found = await self._json("POST", "/v1/recommend", {"history": [], "k": 1000})
        self._items = [item["item_id"] for item in found["items"]]
        # Other ids in every run: a server may still keep the users of the last one.
        run = f"load-{time.time_ns()}-{self._plan.seed}"
        start = int(time.time()) - 30 * _DAY_S
        for number in self._numbers:
            user = SyntheticUser(
                f"{run}-{number}",
                np.random.default_rng((self._plan.seed, number, 1)),
                items=self._items,
                actions=stats["model"]["actions"],
                start=start,
            )
            more = int(self._rng.integers(self._plan.history_spread + 1))
            events = user.with_ids(user.act(self._plan.history_events + more))
            if self._plan.state == "server":
                for i in range(0, len(events), _APPEND):
                    body = {"events": events[i : i + _APPEND]}
                    await self._json("POST", f"/v1/users/{user.name}/events", body)
            self._users.append(user)
        if self._plan.warm:
            for user in self._users:
                await self._visit(user, time.perf_counter(), new_events=0)
            if self.measured.outcomes["ok"] != len(self._users):
                raise EngineError(f"load: first visits failed: {dict(self.measured.outcomes)}")
        self.measured = Measured(model=_in_words(stats["model"]))

    async def run(self) -> None:
        """Visit as the plan says, and wait for the last answer."""
        began = time.perf_counter()
        if self._rate is not None:
            await self._open_loop(began, self._rate)
        else:
            assert self._concurrency is not None
            count = self._concurrency
            whose = [
                slice(i, None, count) if self._plan.own_users else slice(None) for i in range(count)
            ]
            await asyncio.gather(*(self._closed_loop(began, users) for users in whose))
        self.measured.seconds = time.perf_counter() - began

    async def _open_loop(self, began: float, rate: float) -> None:
        open_visits: set[asyncio.Task[str]] = set()
        pick = self._picker(slice(None))
        for due in arrivals(self._rng, rate=rate, seconds=self._plan.seconds).tolist():
            user = pick()
            await asyncio.sleep(max(began + due - time.perf_counter(), 0))
            if len(open_visits) >= MAX_OPEN:
                self.measured.outcomes["lost"] += 1
                continue
            visit = asyncio.create_task(self._visit(user, began + due, self._plan.new_events))
            open_visits.add(visit)
            visit.add_done_callback(open_visits.discard)
        await asyncio.gather(*open_visits)

    async def _closed_loop(self, began: float, users: slice) -> None:
        pick = self._picker(users)
        while (due := time.perf_counter()) < began + self._plan.seconds:
            if await self._visit(pick(), due, self._plan.new_events) in _REFUSED:
                await asyncio.sleep(_REFUSED_S)

    def _picker(self, users: slice) -> Callable[[], SyntheticUser]:
        """Draws from some of the users, by their shares of the visits."""
        chosen = self._users[users]
        shares = np.cumsum(self._shares[users])

        def pick() -> SyntheticUser:
            place = int(np.searchsorted(shares, self._rng.random() * shares[-1]))
            return chosen[min(place, len(chosen) - 1)]

        return pick

    async def _visit(self, user: SyntheticUser, due: float, new_events: int) -> str:
        measured = self.measured
        try:
            status = await self._try_visit(user, due, new_events, measured)
        except TimeoutError:
            status = "timeout"
        except aiohttp.ClientError as error:
            status = type(error).__name__
        measured.outcomes[status] += 1
        return status

    async def _try_visit(
        self, user: SyntheticUser, due: float, new_events: int, measured: Measured
    ) -> str:
        events = user.act(new_events)
        began = time.perf_counter()
        question = self._question(user)
        if events and self._plan.one_request:
            question["events"] = user.with_ids(events)
        elif events and self._plan.state == "server":
            path = f"/v1/users/{user.name}/events"
            status, _ = await self._send("POST", path, {"events": user.with_ids(events)})
            if status != 200:
                return str(status)
            measured.append_s.append(time.perf_counter() - began)
        asked = time.perf_counter()
        path = "/v1/rank" if self._plan.candidates else "/v1/recommend"
        status, content = await self._send("POST", path, question)
        if status != 200:
            return str(status)
        answered = time.perf_counter()
        measured.visit_s.append(answered - due)
        measured.ask_s.append(answered - asked)
        answer = msgspec.json.decode(content, type=_Answer)
        measured.history_events += answer.history_events
        measured.cached_events += answer.cached_events
        return "ok"

    def _question(self, user: SyntheticUser) -> dict[str, Any]:
        plan = self._plan
        body: dict[str, Any] = {"now": user.now}
        if plan.state == "server":
            body["user_id"] = user.name
        else:
            body["history"] = user.events
        if plan.strategy is not None:
            body["strategy"] = plan.strategy
        if plan.candidates:
            count = min(plan.candidates, len(self._items))
            chosen = self._sample(range(len(self._items)), count)
            return {**body, "candidates": [self._items[i] for i in chosen]}
        return {**body, "k": plan.k}

    async def _send(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        content = None if body is None else msgspec.json.encode(body)
        async with self._session.request(method, path, data=content) as response:
            return response.status, await response.read()

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        try:
            status, content = await self._send(method, path, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(f"load: {self._plan.url} does not answer ({error!r})") from error
        if status != 200:
            raise EngineError(f"load: {path} answered {status}: {content[:200].decode()}")
        return msgspec.json.decode(content)


def measure_load(plan: LoadPlan, *, server_pid: int | None = None) -> Measured:
    """Run the plan.

    Args:
        plan: what to do.
        server_pid: process of the server, to watch its memory.

    Raises:
        EngineError: the server does not answer as it should before the run.
    """
    spawning = multiprocessing.get_context("spawn")
    barrier = spawning.Barrier(plan.processes)
    pipes = [spawning.Pipe(duplex=False) for _ in range(plan.processes)]
    processes = [
        spawning.Process(target=_process, args=(plan, i, barrier, sender), daemon=True)
        for i, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, sender in pipes:
        sender.close()
    total, failures = Measured(), []
    waiting = [receiver for receiver, _ in pipes]
    try:
        while waiting:
            for receiver in multiprocessing.connection.wait(waiting, timeout=_SAMPLE_S):
                waiting.remove(receiver)  # type: ignore[arg-type]
                result = _received(receiver)
                if isinstance(result, Measured):
                    total.add(result)
                else:
                    failures.append(result)
                    barrier.abort()
            if server_pid is not None:
                total.memory_mb.append(resident_mb(server_pid))
    finally:
        for process in processes:
            process.join(timeout=10)
            process.kill()
    if failures:
        # The one that failed says why; those that waited for it do not.
        raise EngineError(max(failures, key=len))
    return total


def _in_words(model: dict[str, Any]) -> str:
    """A model as `/v1/stats` describes it."""
    return (
        f"{model['dataset']}: {model['layers']} layers, {model['width']} wide, "
        f"{model['items']} items, {model['max_history']} events"
    )


def _received(receiver: Any) -> Measured | str:
    try:
        result: Measured | str = receiver.recv()
    except EOFError:
        return "load: a process died"
    return result


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    """No load without somebody who reads what becomes of it."""
    parent.join()
    os._exit(1)


def _process(plan: LoadPlan, number: int, barrier: Barrier, result: Connection) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        result.send(asyncio.run(_visit_all(plan, number, barrier)))
    except Exception as error:
        # Whatever it is, the one who started this process wants to know.
        barrier.abort()
        result.send(str(error) or type(error).__name__)


async def _visit_all(plan: LoadPlan, number: int, barrier: Barrier) -> Measured:
    headers = {"content-type": "application/json"}
    if plan.token is not None:
        headers["authorization"] = f"Bearer {plan.token}"
    async with aiohttp.ClientSession(
        plan.url,
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=plan.timeout_s),
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        visitors = Visitors(plan, number, session)
        await visitors.prepare()
        await asyncio.to_thread(barrier.wait, _PREPARE_S)
        await visitors.run()
        return visitors.measured
