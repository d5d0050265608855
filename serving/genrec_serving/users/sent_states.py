"""What others have of users' states: so that only what is new need be sent to them."""

from __future__ import annotations

from genrec_serving.sized_lru import SizedLru
from genrec_serving.users.events import Mark, StateRecord, UserState, mark_of

#: States of a user that may be asked for again. Each process that takes requests has one, which
#: may be older than the last by as many visits as the others had meanwhile.
_STATES = 64
#: Of all users, some 300 bytes each.
_ALL_STATES = 500_000


class SentStates:
    """Marks of the states that were sent, by user and tag. Used from one thread."""

    def __init__(self) -> None:
        self._marks: SizedLru[str, dict[str, Mark]] = SizedLru(_ALL_STATES, len)

    def news(self, user: str, state: UserState, has: str | None) -> tuple[int, StateRecord]:
        """The state without the events that somebody has, and how many these are.

        Args:
            user: their id.
            state: that is sent now.
            has: tag of the state that somebody has of the user; None for none.
        """
        marks = self._marks.get(user) or {}
        known = 0
        if has == state.tag:
            known = len(state.events)
        elif has in marks and marks[has].is_beginning_of(state.events):
            known = marks[has].size
        if state.tag not in marks and state.events:
            if len(marks) == _STATES:
                del marks[next(iter(marks))]
            marks[state.tag] = mark_of(state)
            self._marks.put(user, marks)
        return known, state.record(known=known)
