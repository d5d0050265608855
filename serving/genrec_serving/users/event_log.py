"""A user's events as a sequence to which more are added without copying those before."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import overload

from genrec_serving.users.user_event import UserEvent

# States are extended in more than one thread; what it guards takes microseconds.
_EXTENDING = threading.Lock()


class EventLog(Sequence[UserEvent]):
    """Events in order of time. It never changes.

    Logs that follow each other share one list, of which each sees its own part: a copy of
    thousands of references would touch each of the events, at each visit.

    Args:
        events: a list that is the log's from now on, or anything else.
    """

    __slots__ = ("_shared", "_stop")

    def __init__(self, events: Sequence[UserEvent] = ()) -> None:
        self._shared = events if isinstance(events, list) else list(events)
        self._stop = len(events)

    def followed_by(self, events: Sequence[UserEvent]) -> EventLog:
        """This log with further events after it."""
        with _EXTENDING:
            if self._stop and len(self._shared) == self._stop:
                self._shared.extend(events)
                after = EventLog(self._shared)
            else:  # it was followed by others before, or is nobody's yet
                after = EventLog([*self, *events])
        return after

    def __len__(self) -> int:
        return self._stop

    @overload
    def __getitem__(self, index: int) -> UserEvent: ...
    @overload
    def __getitem__(self, index: slice) -> list[UserEvent]: ...
    def __getitem__(self, index: int | slice) -> UserEvent | list[UserEvent]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self._stop)
            return self._shared[start:stop:step]
        if not -self._stop <= index < self._stop:
            raise IndexError(f"no event {index} of {self._stop}")
        return self._shared[index if index >= 0 else self._stop + index]

    def __iter__(self) -> Iterator[UserEvent]:
        return islice(self._shared, self._stop)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"EventLog({list(self)!r})"
