"""All stores do the same; what each does beyond that is at the end."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys

import pytest
import redis

from genrec_model.errors import ConfigError, StoreError
from genrec_serving.users.events import TRIM
from genrec_serving.users.memory_store import MemoryStore
from genrec_serving.users.open_store import open_store
from genrec_serving.users.redis_store import RedisStore
from genrec_serving.users.sqlite_store import SqliteStore

from .conftest import LIMIT, event

NOBODY = "nobody"


async def test_nobody_is_known_at_first(store) -> None:
    assert await store.read(NOBODY) is None
    assert await store.tag(NOBODY) is None
    assert await store.forget(NOBODY, hide_base=False) is False
    assert await store.count() in {0, None}


async def test_what_is_appended_is_read(store) -> None:
    events = [event(2, value=1.5), event(1, item_id="shoe"), event(3, action="buy")]
    assert await store.append("42", events) == (3, 0, 0, 3)
    state = await store.read("42")
    assert [e.event_id for e in state.events] == ["e1", "e2", "e3"]
    assert set(state.events) == set(events)
    assert await store.read("4") is None
    assert await store.count() in {1, None}


async def test_the_tag_changes_with_the_state_only(store) -> None:
    await store.append("1", [event(1)])
    first = await store.tag("1")
    assert first == (await store.read("1")).tag
    assert await store.append("1", [event(1)]) == (0, 1, 0, 1)
    assert await store.tag("1") == first
    await store.append("1", [event(2)])
    second = await store.tag("1")
    await store.forget("1", hide_base=False)
    await store.append("1", [event(1)])
    assert len({first, second, await store.tag("1")}) == 3


async def test_appends_at_once_are_all_kept(store) -> None:
    await asyncio.gather(*(store.append("1", [event(i), event(i + 1)]) for i in range(20)))
    assert [e.event_id for e in (await store.read("1")).events] == [f"e{i}" for i in range(21)]


async def test_two_replicas_see_each_other(make_store) -> None:
    one, other = make_store(), make_store()
    await asyncio.gather(
        *(store.append("1", [event(10 * n + i)]) for n, store in enumerate((one, other, one))
          for i in range(5))
    )  # fmt: skip
    assert len((await one.read("1")).events) == 15
    assert await one.tag("1") == await other.tag("1")
    await one.close()
    await other.close()


async def test_too_many_events(store) -> None:
    await store.append("1", [event(i) for i in range(LIMIT)])
    assert (await store.append("1", [event(LIMIT)])).held == LIMIT + 1 - TRIM
    assert (await store.append("1", [event(0)])).too_old == 1
    assert (await store.read("1")).horizon == TRIM - 1


async def test_forgetting(store) -> None:
    assert await store.forget("1", hide_base=False) is False
    await store.append("1", [event(1)])
    assert await store.forget("1", hide_base=False) is True
    assert await store.read("1") is None


async def test_forgetting_leaves_a_mark_where_the_data_set_has_the_user(store) -> None:
    assert await store.forget("1", hide_base=True) is True
    assert await store.forget("1", hide_base=True) is False
    state = await store.read("1")
    assert (state.events, state.hides_base) == ((), True)
    await store.append("1", [event(1)])
    state = await store.read("1")
    assert (len(state.events), state.hides_base) == (1, True)
    assert await store.forget("1", hide_base=True) is True
    assert (await store.read("1")).events == ()


async def test_strange_ids(store) -> None:
    for user in ("", "a b", "ü\n\0", "x" * 128, "'; DROP TABLE users; --"):
        await store.append(user, [event(1)])
        assert len((await store.read(user)).events) == 1


async def test_memory_drops_the_least_recent_user_but_no_mark() -> None:
    store = MemoryStore(events_per_user=LIMIT, max_users=2)
    await store.forget("0", hide_base=True)
    await store.append("1", [event(1)])
    await store.append("2", [event(1)])
    await store.read("1")
    await store.append("3", [event(1)])
    assert await store.read("2") is None
    assert await store.read("1") is not None
    assert await store.count() == 2
    assert (await store.read("0")).hides_base
    await store.append("0", [event(1)])
    await store.append("4", [event(1)])
    await store.append("5", [event(1)])
    state = await store.read("0")
    assert (state.events, state.hides_base) == ((), True)


async def test_memory_is_bounded_by_events_of_all_users() -> None:
    store = MemoryStore(events_per_user=LIMIT, max_users=99, max_events=10)
    for user in "abc":
        await store.append(user, [event(i) for i in range(4)])
    assert await store.count() == 2
    await store.append("b", [event(i) for i in range(5)])
    assert await store.read("a") is None
    await store.remove("c")
    await store.append("d", [event(i) for i in range(5)])
    assert await store.count() == 2
    await store.append("e", [event(i) for i in range(50)])
    assert await store.count() == 1  # one user may always have what a user may have
    assert store._num_events == 50


_KILLED = """
import asyncio, os, sys
from pathlib import Path
from genrec_serving.users.events import UserEvent
from genrec_serving.users.sqlite_store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), events_per_user=512)
    events = [UserEvent(event_id="a", item_id=1, action="view", timestamp=1)]
    assert (await store.append("1", events)).accepted == 1
    os._exit(9)

asyncio.run(main())
"""


async def test_sqlite_keeps_what_it_acknowledged_when_the_process_dies(tmp_path) -> None:
    path = tmp_path / "new" / "users.db"
    died = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False)
    assert died.returncode == 9
    store = SqliteStore(path, events_per_user=LIMIT)
    assert [e.event_id for e in (await store.read("1")).events] == ["a"]
    await store.close()


async def test_sqlite_shares_a_transaction_among_those_who_wait(tmp_path) -> None:
    store = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)
    statements: list[str] = []
    store._writer.set_trace_callback(statements.append)
    await asyncio.gather(*(store.append(str(i), [event(1)]) for i in range(50)))
    assert statements.count("COMMIT") < 10
    assert await store.count() == 50
    await store.close()


async def test_sqlite_that_cannot_write_says_so_and_goes_on(tmp_path) -> None:
    path = tmp_path / "users.db"
    store = SqliteStore(path, events_per_user=LIMIT)
    store._writer.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.append("1", [event(1)])
    other.execute("ROLLBACK")
    other.close()
    assert (await store.append("1", [event(1)])).accepted == 1
    await store.close()
    with pytest.raises(StoreError):
        await store.append("1", [event(2)])


async def test_sqlite_of_another_format(tmp_path) -> None:
    path = tmp_path / "users.db"
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(ConfigError, match=r"users\.db: cannot be opened"):
        SqliteStore(path, events_per_user=LIMIT)
    path.unlink()
    store = SqliteStore(path, events_per_user=LIMIT)
    store._writer.execute("INSERT INTO users VALUES ('1', 't', x'00')")
    with pytest.raises(StoreError, match="cannot be read"):
        await store.read("1")
    with pytest.raises(StoreError, match="cannot be read"):
        await store.append("1", [event(1)])
    await store.close()


async def test_a_redis_server_that_does_not_answer(tmp_path) -> None:
    store = RedisStore(f"unix://:secret@{tmp_path}/nobody", events_per_user=LIMIT)
    for answer in (store.read("1"), store.tag("1"), store.append("1", [event(1)])):
        with pytest.raises(StoreError, match="ConnectionError") as caught:
            await answer
        assert "secret" not in str(caught.value)
    await store.close()


async def test_redis_gives_up_on_a_user_who_always_changes(redis_url) -> None:
    store = RedisStore(redis_url, events_per_user=LIMIT)
    with redis.Redis.from_url(redis_url) as other:
        other.flushall()

        def change(state):
            other.hset("genrec:user:1", "tag", "another")
            return store_state, None

        await store.append("2", [event(1)])
        store_state = await store.read("2")
        with pytest.raises(StoreError, match="changed 20 times"):
            await store.update("1", change)
    await store.close()


def test_addresses(tmp_path) -> None:
    assert open_store("memory", max_history=5000).events_per_user == 5512
    assert open_store("memory", max_history=100).events_per_user == 4096
    assert open_store(f"sqlite:{tmp_path}/x.db", max_history=10).name == "sqlite"
    assert open_store("valkey://localhost:1/0", max_history=10).name == "redis"
    for wrong in ("", "disk", "sqlite:", "http://u:secret@x", "redis:"):
        with pytest.raises(ConfigError, match="none of: memory") as caught:
            open_store(wrong, max_history=10)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="keep 612 or more"):
        open_store("memory", max_history=100, events_per_user=300)
    with pytest.raises(ConfigError, match="makes no sense") as caught:
        open_store("redis://:secret@host:nan/0", max_history=10)
    assert "secret" not in str(caught.value)
