"""A store behind a door: what is sent, what fails, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from genrec_model.errors import StoreError
from genrec_serving.sockets.link import Link
from genrec_serving.users.connected_store import ConnectedStore
from genrec_serving.users.events import UserState
from genrec_serving.users.memory_store import MemoryStore
from genrec_serving.users.store_door import open_door
from genrec_serving.users.store_wire import Append, Read, Reply

from .conftest import LIMIT, event


class FailingStore(MemoryStore):
    """Does what its user's name says."""

    async def read(self, user: str) -> UserState | None:
        if user == "broken":
            raise StoreError("user store memory: broken")
        if user == "wrong":
            raise ZeroDivisionError
        if user == "slow":
            await asyncio.sleep(60)
        return await super().read(user)


class Opened(NamedTuple):
    path: str
    held: MemoryStore
    server: asyncio.Server


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Opened]:
    held = FailingStore(events_per_user=LIMIT, max_users=100)
    path = str(tmp_path / "door")
    server = await open_door(path, held)
    yield Opened(path, held, server)
    server.close()


async def connect(path: str, timeout_s: float = 5.0) -> ConnectedStore:
    store = ConnectedStore(path, name="memory", events_per_user=LIMIT, timeout_s=timeout_s)
    async with asyncio.timeout(10):
        await store.wait_until_up()
    return store


async def test_only_what_is_new_is_sent(door: Opened) -> None:
    link = Link(door.path, Reply, lambda: StoreError("lost"))
    keeping = asyncio.create_task(link.keep(lambda: None))
    while not link.up:
        await asyncio.sleep(0.01)

    async def append(number: int, has: str | None) -> tuple[int, int, str]:
        events = (event(number),)
        reply = await link.ask(partial(Append, user="1", events=events, has=has))
        assert reply.state is not None
        return reply.known, len(reply.state.events), reply.state.tag

    known, sent, first = await append(1, None)
    assert (known, sent) == (0, 1)
    known, sent, second = await append(2, first)
    assert (known, sent) == (1, 1)
    known, sent, third = await append(3, first)
    assert (known, sent) == (1, 2), "somebody else appended the second"
    assert await append(3, third) == (3, 0, third), "a duplicate"
    assert (await append(4, "a tag that nobody knows"))[:2] == (0, 4)
    # One that came late, in the middle: what is after it moved.
    reply = await link.ask(
        partial(Append, user="1", events=(event(9, time=2),), has=second)
    )  # after e2, of the same second
    assert (reply.known, reply.state and len(reply.state.events)) == (2, 3)
    reply = await link.ask(partial(Append, user="1", events=(event(10, time=1),), has=third))
    assert (reply.known, reply.state and len(reply.state.events)) == (0, 6)
    await door.held.remove("1")
    reply = await link.ask(partial(Read, user="1", has=third))
    assert reply.state is None
    for number in (1, 2, 3):
        reply = await link.ask(partial(Append, user="1", events=(event(number),), has=third))
    assert (reply.known, reply.state and len(reply.state.events)) == (0, 3), "not the same events"
    link.close()
    keeping.cancel()


async def test_the_same_events_stay_the_same_objects(door: Opened) -> None:
    """Histories are encoded anew where they are not."""
    store, other = await connect(door.path), await connect(door.path)
    _, first = await store.append_and_read("1", [event(i) for i in range(20)])
    await other.append("1", [event(20)])
    _, second = await store.append_and_read("1", [event(21)])
    assert second.extends(first)
    assert second == await door.held.read("1")
    assert await store.read("1") is not None
    assert (await store.read("1")).events[0] is first.events[0]  # type: ignore[union-attr]
    await store.close()
    await other.close()


async def test_states_survive_a_restart_of_the_door(door: Opened) -> None:
    store = await connect(door.path)
    await store.append("1", [event(1), event(2)])
    door.server.close()
    door.server.close_clients() if hasattr(door.server, "close_clients") else None
    store._link.close()  # as the end of the process would
    while store._link.up:
        await asyncio.sleep(0.01)
    with pytest.raises(StoreError, match="is started again"):
        await store.read("1")
    server = await open_door(door.path, door.held)
    async with asyncio.timeout(10):
        await store.wait_until_up()
    appended, state = await store.append_and_read("1", [event(2), event(3)])
    assert appended == (1, 1, 0, 3)
    assert state == await door.held.read("1")
    await store.close()
    server.close()


async def test_what_the_store_says_is_raised(door: Opened) -> None:
    store = await connect(door.path)
    with pytest.raises(StoreError, match="memory: broken"):
        await store.read("broken")
    with pytest.raises(StoreError, match="it failed; see its log"):
        await store.read("wrong")
    assert (await store.append("1", [event(1)])).accepted == 1
    await store.close()


async def test_nobody_waits_for_ever(door: Opened) -> None:
    store = await connect(door.path, timeout_s=0.05)
    with pytest.raises(StoreError, match=r"no answer in 0\.05 s"):
        await store.read("slow")
    waiting = asyncio.create_task(store.read("slow"))
    await asyncio.sleep(0.01)
    store._link.close()
    with pytest.raises(StoreError, match="its process ended"):
        await waiting
    await store.close()
