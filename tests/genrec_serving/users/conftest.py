"""All stores, a real Redis server among them, and a recommender that knows users."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis

from genrec_serving.users.connected_store import ConnectedStore
from genrec_serving.users.memory_store import MemoryStore
from genrec_serving.users.redis_store import RedisStore
from genrec_serving.users.sqlite_store import SqliteStore
from genrec_serving.users.store import HistoryStore
from genrec_serving.users.store_door import open_door
from genrec_serving.users.store_wire import Reply
from genrec_serving.users.user_event import UserEvent

#: Small, so that tests reach it: two times `TRIM`.
LIMIT = 1024

MakeStore = Callable[[], HistoryStore]


def event(number: int, time: int | None = None, **changes: object) -> UserEvent:
    """An event with the id of its number."""
    fields = {"item_id": 1000, "action": "view", "timestamp": number if time is None else time}
    return UserEvent(event_id=f"e{number}", **{**fields, **changes})


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server on a socket, with nothing in it."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("neither redis-server nor valkey-server is installed")
    folder = Path(tmp_path_factory.mktemp("redis"))
    socket = folder / "s"
    command = [program, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--save", ""], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not _answers(socket):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
        yield f"unix://{socket}"
    finally:
        process.terminate()
        process.wait(20)


def _answers(socket: Path) -> bool:
    try:
        with redis.Redis(unix_socket_path=str(socket)) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


class ReachedStore(ConnectedStore):
    """Waits where a server would say that the store is not there."""

    async def _ask(self, question: Callable[[int], msgspec.Struct]) -> Reply:
        await self.wait_until_up()
        return await super()._ask(question)


@pytest.fixture(params=["memory", "sqlite", "redis", "connected"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Opens a store; twice the same one, as another replica would."""
    if request.param == "memory":
        store = MemoryStore(events_per_user=LIMIT, max_users=100)
        yield lambda: store
    elif request.param == "sqlite":
        yield lambda: SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)
    elif request.param == "connected":
        path = str(tmp_path / "door")
        held = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT, threads=False)
        door = await open_door(path, held)
        yield lambda: ReachedStore(path, name=held.name, events_per_user=LIMIT)
        door.close()
        await held.close()
    else:
        url = request.getfixturevalue("redis_url")
        with redis.Redis.from_url(url) as client:
            client.flushall()
        yield lambda: RedisStore(url, events_per_user=LIMIT)


@pytest.fixture
async def store(make_store: MakeStore) -> AsyncIterator[HistoryStore]:
    made = make_store()
    yield made
    await made.close()
