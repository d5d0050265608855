"""Events in a SQLite file: they outlive the process, and several processes of a machine share it.

An append is answered when its transaction is on the disk (write-ahead log, `synchronous=FULL`).
Appends that wait for the disk at the same time share a transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from genrec_model.errors import ConfigError, StoreError
from genrec_serving.users.events import UserState
from genrec_serving.users.store import Change, HistoryStore, Result

Value = TypeVar("Value")

#: Seconds to wait for another process that writes.
_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    tag TEXT NOT NULL,
    state BLOB NOT NULL
) WITHOUT ROWID
"""


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
            self._writer = _connect(path)
            self._writer.execute(_SCHEMA)
            self._reader = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"user store {path}: cannot be opened ({error})") from error
        # A connection each, so that reading does not wait for the disk.
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="user-store-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="user-store-read")
        self._waiting: list[_Write] = []
        self._writing: asyncio.Task[None] | None = None

    async def read(self, user: str) -> UserState | None:
        """As the base class says."""
        found = await self._query("SELECT state FROM users WHERE id = ?", user)
        return None if found is None else self._decode(found)

    async def tag(self, user: str) -> str | None:
        """As the base class says."""
        tag = await self._query("SELECT tag FROM users WHERE id = ?", user)
        return None if tag is None else str(tag)

    async def update(self, user: str, change: Change[Result]) -> Result:
        """As the base class says."""
        result: Result = await self._submit(user, change)
        return result

    async def remove(self, user: str) -> bool:
        """As the base class says."""
        return bool(await self._submit(user, lambda state: (None, state is not None)))

    async def count(self) -> int | None:
        """Users, the forgotten ones that left a mark included."""
        return int(await self._query("SELECT count(*) FROM users"))

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
        connection = self._writer
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = [self._write(connection, write) for write in batch]
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        return results

    def _write(self, connection: sqlite3.Connection, write: _Write) -> Any:
        row = connection.execute("SELECT state FROM users WHERE id = ?", (write.user,)).fetchone()
        before = None if row is None else self._decode(row[0])
        after, result = write.change(before)
        if after is None:
            connection.execute("DELETE FROM users WHERE id = ?", (write.user,))
        elif before is None or after.tag != before.tag:
            connection.execute(
                "INSERT OR REPLACE INTO users VALUES (?, ?, ?)",
                (write.user, after.tag, self._encode(after)),
            )
        return result

    async def _query(self, sql: str, *parameters: str) -> Any:
        def first() -> Any:
            row = self._reader.execute(sql, parameters).fetchone()
            return None if row is None else row[0]

        return await self._in_thread(self._read_thread, first)

    async def _in_thread(
        self, thread: ThreadPoolExecutor, function: Callable[..., Value], *arguments: Any
    ) -> Value:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, function, *arguments)
        except (sqlite3.Error, RuntimeError) as error:  # RuntimeError: the store was closed
            raise StoreError(f"user store sqlite: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    # Each connection is used by one thread, but not by the one that makes it.
    connection = sqlite3.connect(
        path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
