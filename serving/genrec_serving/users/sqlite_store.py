"""Events in a SQLite file: they outlive the process, and several processes of a machine share it.

An append is answered when its transaction is on the disk (write-ahead log, `synchronous=FULL`).
Appends that wait for the disk at the same time share a transaction. Processes take turns by a lock
on a file beside it: SQLite's own is tried again and again, at intervals that get long.
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
from typing import Any, TypeVar

from genrec_model.errors import ConfigError, StoreError
from genrec_serving.users.events import UserState
from genrec_serving.users.sqlite_states import SCHEMA, Held, States
from genrec_serving.users.store import Change, HistoryStore, Result

Value = TypeVar("Value")

#: Seconds to wait for another process that writes.
_BUSY_S = 5.0
#: Pages of the log after which it is moved into the file: 32 MiB.
_LOG_PAGES = 8192


@dataclass(frozen=True)
class _Write:
    """A change on its way to the disk, and where its result goes."""

    user: str
    change: Callable[[UserState | None], tuple[UserState | None, Any]]
    result: asyncio.Future[Any]


class SqliteStore(HistoryStore):
    """All users, in one file.

    Args:
        path: the file; made where it does not exist.
        events_per_user: most events that are kept of a user.

    Raises:
        ConfigError: it cannot be opened, or is another kind of file.
    """

    name = "sqlite"

    def __init__(self, path: Path, *, events_per_user: int) -> None:
        super().__init__(events_per_user=events_per_user)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._turn = path.with_name(f"{path.name}-turn").open("ab")
            with self._my_turn():
                self._writer = _connect(path)
                self._writer.executescript(SCHEMA)
                self._reader = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"user store {path}: cannot be opened ({error})") from error
        self._states = States(self._encode, self._decode)
        # A connection each, so that reading does not wait for the disk.
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
            thread.shutdown()
            connection.close()
        self._turn.close()

    async def _submit(self, user: str, change: Callable[[UserState | None], Any]) -> Any:
        write = _Write(user, change, asyncio.get_running_loop().create_future())
        self._waiting.append(write)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        return await write.result

    async def _write_all(self) -> None:
        """Write until nobody waits, all that wait in one transaction."""
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                results = await self._in_thread(self._write_thread, self._transact, batch)
            except StoreError as error:
                for write in batch:
                    if not write.result.done():
                        write.result.set_exception(error)
                continue
            for write, result in zip(batch, results, strict=True):
                if not write.result.done():  # nobody waits any more
                    write.result.set_result(result)

    def _transact(self, batch: list[_Write]) -> list[Any]:
        with self._my_turn(), _transaction(self._writer, "IMMEDIATE"):
            seen: dict[str, Held | None] = {}
            results = [self._write(write, seen) for write in batch]
        for user, held in seen.items():
            self._states.know(user, held)
        return results

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _write(self, write: _Write, seen: dict[str, Held | None]) -> Any:
        """Make one change; `seen` is what the file has of users whom the transaction met."""
        user, connection = write.user, self._writer
        before = seen[user] if user in seen else self._states.read(connection, user)
        seen[user] = before
        after, result = write.change(None if before is None else before.state)
        if after is None:
            self._states.remove(connection, user)
            seen[user] = None
        elif before is None or after.tag != before.state.tag:
            seen[user] = self._states.write(connection, user, before, after)
        return result

    def _read(self, user: str) -> UserState | None:
        with _transaction(self._reader, "DEFERRED"):
            held = self._states.read(self._reader, user)
        if not self._states.knows(user):
            self._states.know(user, held)
        return None if held is None else held.state

    def _count(self) -> int:
        return int(self._reader.execute("SELECT count(*) FROM users").fetchone()[0])

    async def _in_thread(
        self, thread: ThreadPoolExecutor, function: Callable[..., Value], *arguments: Any
    ) -> Value:
        try:
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
