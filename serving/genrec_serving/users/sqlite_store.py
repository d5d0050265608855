"""Events in a SQLite file: they outlive the process, and several processes of a machine share it.

An append is answered when its transaction is on the disk (write-ahead log, `synchronous=FULL`).
Appends that wait for the disk at the same time share a transaction. Processes take turns by a lock
on a file beside it: SQLite's own is tried again and again, at intervals that get long. What is to
be written is worked out before a process has its turn; where another one wrote something of the
same user in between, once more within it.
"""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from genrec_model.errors import ConfigError, StoreError
from genrec_serving.users.events import UserState
from genrec_serving.users.sqlite_states import Held, States, make_tables
from genrec_serving.users.state_store import Change, Result, StateStore

Value = TypeVar("Value")

#: Seconds to wait for another process that writes.
_BUSY_S = 5.0
#: Pages of the log after which it is moved into the file: 32 MiB.
_LOG_PAGES = 8192


@dataclass(kw_only=True)
class _Write:
    """A change on its way to the disk, and where its result goes.

    outcome: the result, which holds once it is on the disk.
    """

    user: str
    change: Callable[[UserState | None], tuple[UserState | None, Any]]
    result: asyncio.Future[Any]
    outcome: Any = None


class _Plan(NamedTuple):
    """What a transaction does with a user.

    writes: in their order.
    before: what the file has.
    after: the state after all of them.
    """

    user: str
    writes: list[_Write]
    before: Held | None
    after: UserState | None

    @property
    def changes_nothing(self) -> bool:
        """Whether the file has the state already."""
        tag = None if self.before is None else self.before.state.tag
        return tag == (None if self.after is None else self.after.tag)


class SqliteStore(StateStore):
    """All users, in one file.

    Args:
        path: the file; made where it does not exist.
        events_per_user: most events that are kept of a user.
        threads: whether the event loop goes on while the disk is waited for. A process that does
            nothing else is quicker without: each call of SQLite would be a turn at Python's lock.

    Raises:
        ConfigError: it cannot be opened, or is another kind of file.
    """

    name = "sqlite"

    def __init__(self, path: Path, *, events_per_user: int, threads: bool = True) -> None:
        super().__init__(events_per_user=events_per_user)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._turn = path.with_name(f"{path.name}-turn").open("ab")
            with self._my_turn():
                self._writer = _connect(path)
                make_tables(self._writer)
                self._reader = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"user store {path}: cannot be opened ({error})") from error
        self._states = States(self._encode, self._decode)
        # A connection each, so that reading does not wait for the disk.
        self._write_thread = self._read_thread = None
        if threads:
            self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="user-store-write")
            self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="user-store-read")
        self._waiting: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None

    async def read(self, user: str) -> UserState | None:
        """As the base class says."""
        return await self._in_thread(self._read_thread, self._read, user)

    async def tag(self, user: str) -> str | None:
        """As the base class says."""
        return await self._in_thread(self._read_thread, self._states.tag, self._reader, user)

    async def update(self, user: str, change: Change[Result]) -> Result:
        """As the base class says."""
        result: Result = await self._submit(user, change)
        return result

    async def remove(self, user: str) -> bool:
        """As the base class says."""
        return bool(await self._submit(user, lambda state: (None, state is not None)))

    async def count(self) -> int | None:
        """Users, the forgotten ones that left a mark included."""
        return await self._in_thread(self._read_thread, self._count)

    async def close(self) -> None:
        """Finish what is being written."""
        if self._writing is not None:
            await self._writing
        for thread, connection in (
            (self._write_thread, self._writer),
            (self._read_thread, self._reader),
        ):
            if thread is not None:
                thread.shutdown()
            connection.close()
        self._turn.close()

    async def _submit(self, user: str, change: Callable[[UserState | None], Any]) -> Any:
        result = asyncio.get_running_loop().create_future()
        write = _Write(user=user, change=change, result=result)
        self._waiting.append(write)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await write.result

    async def _write_all(self) -> None:
        """Write until nobody waits, all that wait in one transaction."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await self._in_thread(self._write_thread, self._transact, batch)
            except StoreError as error:
                for write in batch:
                    if not write.result.done():
                        write.result.set_exception(error)
                continue
            for write in batch:
                if not write.result.done():  # nobody waits any more
                    write.result.set_result(write.outcome)

    def _transact(self, batch: list[_Write]) -> None:
        writes_of: dict[str, list[_Write]] = {}
        for write in batch:
            writes_of.setdefault(write.user, []).append(write)
        with _transaction(self._writer, "DEFERRED"):
            # Where nobody else wrote there is nothing to read.
            version = self._states.version(self._writer)
            plans = [self._plan(user, writes, version) for user, writes in writes_of.items()]
        found = {plan.user: plan.before for plan in plans}
        changes = [plan for plan in plans if not plan.changes_nothing]
        if changes:
            with self._my_turn(), _transaction(self._writer, "IMMEDIATE"):
                found |= {plan.user: self._write(plan) for plan in changes}
        for user, held in found.items():
            self._states.know(user, held, version=version)

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _plan(self, user: str, writes: list[_Write], version: int | None = None) -> _Plan:
        """Make a user's changes to what the file has, within a transaction."""
        before = self._states.read(self._writer, user, version=version)
        after = None if before is None else before.state
        for write in writes:
            after, write.outcome = write.change(after)
        return _Plan(user, writes, before, after)

    def _write(self, plan: _Plan) -> Held | None:
        """Write a state, in this process's turn; what the file has then."""
        held = self._states.extend(self._writer, plan.user, plan.before, plan.after)
        if held is not None:
            return held
        # Another process came first, or it is no mere addition: with what the file has now.
        plan = self._plan(plan.user, plan.writes)
        if plan.changes_nothing:
            return plan.before
        if plan.after is None:
            self._states.remove(self._writer, plan.user)
            return None
        held = self._states.extend(self._writer, plan.user, plan.before, plan.after)
        return held or self._states.replace(self._writer, plan.user, plan.after)

    def _read(self, user: str) -> UserState | None:
        with _transaction(self._reader, "DEFERRED"):
            held = self._states.read(self._reader, user)
        if not self._states.knows(user):
            self._states.know(user, held)
        return None if held is None else held.state

    def _count(self) -> int:
        return int(self._reader.execute("SELECT count(*) FROM users").fetchone()[0])

    async def _in_thread(
        self, thread: ThreadPoolExecutor | None, function: Callable[..., Value], *arguments: Any
    ) -> Value:
        try:
            if thread is None:
                return function(*arguments)
            return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
        except (sqlite3.Error, RuntimeError) as error:  # RuntimeError: the store was closed
            raise StoreError(f"user store sqlite: {error}") from error


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _connect(path: Path) -> sqlite3.Connection:
    # Each connection is used by one thread, but not by the one that makes it.
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
    return connection
