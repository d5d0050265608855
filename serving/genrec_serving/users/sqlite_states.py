"""How a SQLite file holds users' states: a state as it once was, and events that came after it.

A state of thousands of events is too much to write for each few that are new. So new events are
written beside it, and the state anew only after a number of these, or where something came between.
What a process has read it keeps, so that it reads what others added since, and nothing else.
"""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from genrec_model.errors import StoreError
from genrec_serving.sized_lru import SizedLru
from genrec_serving.users.events import UserState
from genrec_serving.users.user_event import UserEvent

#: `base` is the tag of the state that the events came after: those of another one do not count.
#: `users` has an index of its own: to find an id among rows that hold states, as in a table without
#: rowids, SQLite reads whole states of others.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    id TEXT PRIMARY KEY,
    tag TEXT NOT NULL,
    state BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS additions (
    id TEXT NOT NULL,
    base TEXT NOT NULL,
    number INTEGER NOT NULL,
    tag TEXT NOT NULL,
    events BLOB NOT NULL,
    PRIMARY KEY (id, base, number)
) WITHOUT ROWID;
"""
#: Brings a file of former versions into that form.
_WITH_ROWIDS = """
BEGIN;
ALTER TABLE users RENAME TO former_users;
CREATE TABLE users (id TEXT PRIMARY KEY, tag TEXT NOT NULL, state BLOB NOT NULL);
INSERT INTO users SELECT id, tag, state FROM former_users;
DROP TABLE former_users;
COMMIT;
"""
_TAG = """
SELECT coalesce((SELECT tag FROM additions WHERE id = users.id AND base = users.tag
                 ORDER BY number DESC LIMIT 1), tag) FROM users WHERE id = ?
"""
#: One question, as each costs a turn at Python's lock: of the state, and additions after a number.
_ADDED = """
SELECT users.tag, number, additions.tag, events FROM users
LEFT JOIN additions ON additions.id = users.id AND base = users.tag AND number > ?
WHERE users.id = ? ORDER BY number
"""
#: Writes nothing where the state is another one by now, or has an addition of this number.
_ADD = """
INSERT OR IGNORE INTO additions SELECT id, tag, ?, ?, ? FROM users WHERE id = ? AND tag = ?
"""
#: After at most as many additions the state is written anew, after half of them at least.
MAX_ADDITIONS = 128
#: Events of all states that are kept in this process, some 300 bytes each. A state that is not kept
#: is read whole at each visit, which takes five times as long.
MAX_EVENTS = 1_000_000


def make_tables(connection: sqlite3.Connection) -> None:
    """Make what a file lacks, while nobody else writes."""
    connection.executescript(_SCHEMA)
    found = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'users'").fetchone()
    if "WITHOUT ROWID" in found[0]:
        connection.executescript(_WITH_ROWIDS)


def most_additions(user: str) -> int:
    """After how many additions a user's state is written anew, which takes ten times as long.

    Another number for each user: those who came together at first, and come as often, would have
    theirs written together, and all others would wait for it.
    """
    half = MAX_ADDITIONS // 2
    return half + zlib.crc32(user.encode()) % (half + 1)


class Held(NamedTuple):
    """A user's state as the file has it.

    base: tag of the state that is written whole.
    number: of the last addition to it; 0 for none.
    state: with all additions.
    """

    base: str
    number: int
    state: UserState


class _Known(NamedTuple):
    """What the file had, at a version of it, where that is known."""

    held: Held
    version: int | None


class States:
    """Reads and writes states, over connections that may belong to several threads.

    Args:
        encode, decode: of whole states.
        most: events of all states that are kept in this process.
    """

    def __init__(
        self,
        encode: Callable[[UserState], bytes],
        decode: Callable[[bytes], UserState],
        *,
        most: int = MAX_EVENTS,
    ) -> None:
        self._encode = encode
        self._decode = decode
        self._encode_events = msgspec.msgpack.Encoder().encode
        self._decode_events = msgspec.msgpack.Decoder(list[UserEvent]).decode
        self._lock = threading.Lock()
        self._known: SizedLru[str, _Known] = SizedLru(
            most, lambda known: len(known.held.state.events)
        )

    def tag(self, connection: sqlite3.Connection, user: str) -> str | None:
        """Tag of a user's state."""
        row = connection.execute(_TAG, (user,)).fetchone()
        return None if row is None else str(row[0])

    def version(self, connection: sqlite3.Connection) -> int:
        """Another number once somebody else has written, asked in a transaction that reads."""
        return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def read(
        self, connection: sqlite3.Connection, user: str, *, version: int | None = None
    ) -> Held | None:
        """A user's state, in a transaction that sees no others' writing.

        Args:
            connection: that reads.
            user: their id.
            version: of the file, for this connection; None to look at the file in any case.

        Raises:
            StoreError: it cannot be read.
        """
        with self._lock:
            known = self._known.get(user)
        if known is not None and known.version is not None and known.version == version:
            return known.held
        held = None if known is None else known.held
        rows = self._added(connection, user, 0 if held is None else held.number)
        if not rows:
            return None
        base = rows[0][0]
        if held is None or held.base != base:
            if held is not None and held.number:
                rows = self._added(connection, user, 0)
            found = connection.execute("SELECT state FROM users WHERE id = ?", (user,)).fetchone()
            held = Held(base, 0, self._decode(found[0]))
        _, number, tag, some = rows[-1]
        if some is not None:
            try:
                fresh = [event for row in rows for event in self._decode_events(row[3])]
            except msgspec.MsgspecError as error:
                raise StoreError(f"user store sqlite: events cannot be read ({error})") from error
            state = msgspec.structs.replace(
                held.state, tag=tag, events=held.state.events.followed_by(fresh)
            )
            held = Held(held.base, number, state)
        return held

    def extend(
        self,
        connection: sqlite3.Connection,
        user: str,
        before: Held | None,
        after: UserState | None,
    ) -> Held | None:
        """Write what a state has more than another one beside that.

        Args:
            connection: in a transaction that writes.
            user: their id.
            before: what the file had, now or earlier.
            after: what it is to have.

        Returns:
            What the file has then; None where it has something else by now, or where the whole
            state is to be written. Then nothing was.
        """
        if (
            before is None
            or after is None
            or before.number >= most_additions(user)
            or not after.extends(before.state)
        ):
            return None
        held = Held(before.base, before.number + 1, after)
        fresh = self._encode_events(after.events[len(before.state.events) :])
        added = connection.execute(_ADD, (held.number, after.tag, fresh, user, held.base))
        return held if added.rowcount else None

    def replace(self, connection: sqlite3.Connection, user: str, after: UserState) -> Held:
        """Write a whole state, in a transaction in which nobody else writes."""
        self._forget_additions(connection, user)
        connection.execute(
            "INSERT OR REPLACE INTO users VALUES (?, ?, ?)", (user, after.tag, self._encode(after))
        )
        return Held(after.tag, 0, after)

    def remove(self, connection: sqlite3.Connection, user: str) -> None:
        """Remove a state."""
        self._forget_additions(connection, user)
        connection.execute("DELETE FROM users WHERE id = ?", (user,))

    def knows(self, user: str) -> bool:
        """Whether something of a user is kept in this process, however old."""
        with self._lock:
            return user in self._known

    def know(self, user: str, held: Held | None, *, version: int | None = None) -> None:
        """Keep what the file has, once that is sure: after the transaction.

        Args:
            user: their id.
            held: what the file has.
            version: at which it was so, where that is known; of one connection's, always.
        """
        with self._lock:
            if held is None:
                self._known.pop(user)
            else:
                self._known.put(user, _Known(held, version))

    @staticmethod
    def _added(connection: sqlite3.Connection, user: str, number: int) -> list[Any]:
        return connection.execute(_ADDED, (number, user)).fetchall()

    @staticmethod
    def _forget_additions(connection: sqlite3.Connection, user: str) -> None:
        connection.execute("DELETE FROM additions WHERE id = ?", (user,))
