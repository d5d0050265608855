"""What makes appends cheap must not change what they do."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from genrec_model.errors import StoreError
from genrec_serving.histories import ParquetHistories
from genrec_serving.users.events import UserState, ids_of, merge
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.known_ids import KnownIds
from genrec_serving.users.memory_store import MemoryStore
from genrec_serving.users.sqlite_states import MAX_ADDITIONS, most_additions
from genrec_serving.users.sqlite_store import SqliteStore

from .conftest import LIMIT, event


async def test_random_changes_through_two_processes_are_those_of_memory(tmp_path) -> None:
    rng = random.Random(0)
    simple = MemoryStore(events_per_user=LIMIT, max_users=9)
    stores = [SqliteStore(tmp_path / "users.db", events_per_user=LIMIT) for _ in "ab"]
    newest = 0
    for step in range(600):
        store, user = rng.choice(stores), rng.choice("12")
        kind = rng.random()
        if kind < 0.005:
            hide = rng.random() < 0.5
            wanted = await simple.forget(user, hide_base=hide)
            assert await store.forget(user, hide_base=hide) == wanted
            continue
        if kind < 0.9:  # new ones, now and then some that are known
            times = range(newest - rng.randint(0, 3), newest + rng.randint(1, 8))
            newest = max(newest, times[-1])
        else:  # late ones
            times = [rng.randint(0, newest) for _ in range(3)]
        events = [event(10_000 * (kind >= 0.9) * step + t, time=t) for t in times]
        assert await store.append(user, events) == await simple.append(user, events)
        for reader in stores:
            state, same = await reader.read(user), await simple.read(user)
            assert state.events == same.events
            assert (state.horizon, state.hides_base) == (same.horizon, same.hides_base)
            assert await reader.tag(user) == state.tag
    for store in stores:
        await store.close()


async def test_few_events_are_written_beside_the_state(tmp_path) -> None:
    store = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)

    def written() -> tuple[int, int]:
        (additions,) = store._writer.execute("SELECT count(*) FROM additions").fetchone()
        (size,) = store._writer.execute("SELECT length(state) FROM users").fetchone()
        return additions, size

    await store.append("1", [event(i) for i in range(100)])
    whole = written()[1]
    await store.append("1", [event(100)])
    await store.append("1", [event(101), event(5)])
    assert written() == (2, whole)
    await store.append("1", [event(500, time=50)])  # between others: written anew
    assert written()[0] == 0
    most = most_additions("1")
    for i in range(most):
        await store.append("1", [event(1000 + i)])
    assert written()[0] == most
    await store.append("1", [event(2000)])
    assert written()[0] == 0
    assert len((await store.read("1")).events) == 103 + most + 1
    assert await store.remove("1") is True
    assert await store.read("1") is None
    await store.close()


def test_users_who_come_as_often_are_not_written_anew_together() -> None:
    numbers = [most_additions(str(user)) for user in range(3300)]
    assert min(numbers) == MAX_ADDITIONS // 2
    assert max(numbers) == MAX_ADDITIONS
    together = max(numbers.count(number) for number in set(numbers))
    assert together < 3300 / 33 * 1.5


async def test_a_failed_transaction_leaves_nothing_behind(tmp_path) -> None:
    store = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)
    other = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)
    await store.append("1", [event(1)])

    def fail(state: UserState | None) -> tuple[UserState, None]:
        raise RuntimeError("in the middle")

    appended = asyncio.create_task(store.append("1", [event(2)]))
    results = await asyncio.gather(appended, store.update("2", fail), return_exceptions=True)
    assert all(isinstance(result, Exception) for result in results)
    assert (await other.append("1", [event(3)])).held == 2
    assert (await store.append("1", [event(2), event(3)])) == (1, 1, 0, 3)
    assert [e.event_id for e in (await other.read("1")).events] == ["e1", "e2", "e3"]
    await store.close()
    await other.close()


@pytest.mark.parametrize("meanwhile", ["appended", "between", "forgotten", "hidden", "nothing"])
async def test_what_another_process_writes_before_our_turn_is_seen(
    tmp_path, monkeypatch, meanwhile
) -> None:
    path = tmp_path / "users.db"
    ours, theirs = (SqliteStore(path, events_per_user=LIMIT) for _ in "ab")
    await ours.append("1", [event(i) for i in range(3)])
    await ours.append("2", [event(i) for i in range(3)])
    turn, planned = ours._my_turn, []

    @contextmanager
    def after_theirs() -> Iterator[None]:
        # In the thread that has worked out what to write, and has no lock yet.
        planned.append(meanwhile)
        if meanwhile in ("forgotten", "hidden"):
            asyncio.run(theirs.forget("1", hide_base=meanwhile == "hidden"))
        elif meanwhile != "nothing":
            time = 7 if meanwhile == "appended" else 1
            asyncio.run(theirs.append("1", [event(7, time=time), event(9, time=time)]))
        with turn():
            yield

    monkeypatch.setattr(ours, "_my_turn", after_theirs)
    one, two, again = await asyncio.gather(
        ours.append_and_read("1", [event(8), event(9)]),
        ours.append_and_read("2", [event(8)]),
        ours.append_and_read("1", [event(10)]),
    )
    assert planned == [meanwhile]
    before = {
        "appended": ["e0", "e1", "e2", "e7", "e9", "e8"],
        "between": ["e0", "e1", "e7", "e9", "e2", "e8"],
        "nothing": ["e0", "e1", "e2", "e8", "e9"],
    }.get(meanwhile, ["e8", "e9"])
    assert [e.event_id for e in one[1].events] == before
    assert one[0].duplicates == (meanwhile in ("appended", "between"))
    assert [e.event_id for e in again[1].events] == [*before, "e10"]
    assert again[1].hides_base == (meanwhile == "hidden")
    assert [e.event_id for e in two[1].events] == ["e0", "e1", "e2", "e8"]
    for store in (ours, theirs, SqliteStore(path, events_per_user=LIMIT)):
        assert (await store.read("1")).events == again[1].events
        assert (await store.read("2")).events == two[1].events
        await store.close()


async def test_a_file_of_former_versions_is_taken_over(tmp_path) -> None:
    path = tmp_path / "users.db"
    store = SqliteStore(path, events_per_user=LIMIT)
    await store.append("1", [event(i) for i in range(50)])
    await store.append("1", [event(50)])
    (sql,) = store._writer.execute("SELECT sql FROM sqlite_master WHERE name='users'").fetchone()
    await store.close()
    with closing(sqlite3.connect(path)) as file:
        file.executescript(
            f"ALTER TABLE users RENAME TO x; {sql} WITHOUT ROWID;"
            "INSERT INTO users SELECT * FROM x; DROP TABLE x;"
        )
    for held in (51, 52):
        store = SqliteStore(path, events_per_user=LIMIT)
        assert len((await store.read("1")).events) == held
        assert [*store._writer.execute("SELECT rowid FROM users")] == [(1,)]
        await store.append("1", [event(50), event(51)])
        await store.close()


async def test_events_that_cannot_be_read_are_said(tmp_path) -> None:
    store = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)
    await store.append("1", [event(1)])
    await store.append("1", [event(2)])
    store._writer.execute("UPDATE additions SET events = x'00', number = 2")
    other = SqliteStore(tmp_path / "users.db", events_per_user=LIMIT)
    for one in (store, other):
        with pytest.raises(StoreError, match="events cannot be read"):
            await one.read("1")
        await one.close()


_WRITER = """
import asyncio, sys
from pathlib import Path
from genrec_serving.users.events import UserEvent
from genrec_serving.users.sqlite_store import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), events_per_user=100_000)
    for i in range(100):
        events = [UserEvent(f"{sys.argv[2]}-{user}-{i}", 1, "view", i) for user in "ab"]
        await asyncio.gather(*(store.append(u, [e]) for u, e in zip("ab", events)))
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_write_at_once_lose_nothing(tmp_path) -> None:
    path = tmp_path / "users.db"
    command = [sys.executable, "-c", _WRITER, str(path)]
    writers = [subprocess.Popen([*command, name]) for name in "xyz"]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    store = SqliteStore(path, events_per_user=100_000)
    for user in "ab":
        state = await store.read(user)
        assert len(ids_of(state)) == len(state.events) == 300
        assert [e.timestamp for e in state.events] == sorted(e.timestamp for e in state.events)
    await store.close()


async def test_only_new_events_are_encoded_and_the_history_is_the_same(
    served_artifact, histories_file: Path, tmp_path
) -> None:
    vocabulary = served_artifact.vocabulary
    base = ParquetHistories(histories_file, vocabulary)
    path, rng = tmp_path / "users.db", random.Random(1)
    users = [
        UserHistories(vocabulary, store=SqliteStore(path, events_per_user=LIMIT), base=base)
        for _ in "ab"
    ]
    now = 2_000_000_000
    for step in range(60):
        user, one = rng.choice([1, 2, 77]), rng.choice(users)
        start = now - 10_000 + 10 * step if rng.random() < 0.9 else rng.randint(1, now)
        events = [
            event(100 * step + i, time=start + i, item_id=1000 + rng.randint(0, 60))
            for i in range(rng.randint(1, 8))
        ]
        kept, history = await one.append_and_get(user, events, now=now)
        assert kept.appended.accepted == len(events)
        afresh = UserHistories(vocabulary, store=one.store, base=base)
        for found in (history, await users[0].get(user), await users[1].get(user)):
            wanted = await afresh.get(user)
            np.testing.assert_array_equal(found.items, wanted.items)
            np.testing.assert_array_equal(found.actions, wanted.actions)
            np.testing.assert_array_equal(found.timestamps, wanted.timestamps)
    await users[0].forget(1)
    assert await users[1].get(1) is None
    for one in users:
        await one.store.close()


def test_known_ids_are_those_of_the_state() -> None:
    ids, state = KnownIds(most=600), None
    for step in range(200):
        known = ids.take("1", state)
        state, _ = merge(state, [event(3 * step + i) for i in range(4)], limit=LIMIT, known=known)
        assert known == ids_of(state)
        ids.keep("1", state, known)
        if step % 3 == 0:  # another process appends
            state, _ = merge(state, [event(3 * step + 5)], limit=LIMIT)
    assert ids.take("1", state) == ids_of(state)


def test_ids_of_a_transaction_that_failed_are_not_taken_for_known() -> None:
    """The state that the ids were kept for is not the one that is there."""
    ids = KnownIds()
    before, _ = merge(None, [event(1), event(2)], limit=LIMIT)
    known = ids.take("1", before)
    lost, _ = merge(before, [event(3)], limit=LIMIT, known=known)
    ids.keep("1", lost, known)
    assert ids.take("1", before) == {"e1", "e2"}
    ids.keep("1", lost, ids_of(lost))
    other, _ = merge(before, [event(4), event(5)], limit=LIMIT)
    assert ids.take("1", other) == {"e1", "e2", "e4", "e5"}


def test_the_ids_of_the_least_recent_are_dropped() -> None:
    ids = KnownIds(most=600)
    states = [merge(None, [event(i) for i in range(n)], limit=LIMIT)[0] for n in (300, 200, 400)]
    for user, state in zip("abc", states, strict=True):
        ids.keep(user, state, ids_of(state))
    assert list(ids._of) == ["b", "c"]
    ids.keep("c", UserState("t"), set())
    assert (list(ids._of), ids._of.size) == (["b"], 200)
