"""Events in this process: fast, and gone with it."""

from __future__ import annotations

from collections import OrderedDict

from genrec_serving.users.events import UserState
from genrec_serving.users.state_store import Change, Result, StateStore


class MemoryStore(StateStore):
    """The users who were last asked for; others are dropped, the least recent first.

    Marks of forgotten users are never dropped: with them, their data-set events would come back.

    Args:
        events_per_user: most events that are kept of a user.
        max_users: most users.
        max_events: most events of all users, some 300 bytes each.
    """

    name = "memory"

    def __init__(
        self, *, events_per_user: int, max_users: int, max_events: int = 2_000_000
    ) -> None:
        super().__init__(events_per_user=events_per_user)
        self._max_users = max_users
        self._max_events = max_events
        self._num_events = 0
        self._states: OrderedDict[str, UserState] = OrderedDict()
        self._forgotten: dict[str, UserState] = {}

    async def read(self, user: str) -> UserState | None:
        """As the base class says."""
        return self._find(user)

    async def tag(self, user: str) -> str | None:
        """As the base class says."""
        state = self._find(user)
        return None if state is None else state.tag

    async def update(self, user: str, change: Change[Result]) -> Result:
        """As the base class says; nothing can come between, as nothing is awaited."""
        state, result = change(self._find(user))
        if state.hides_base:
            self._forgotten[user] = UserState(state.tag, hides_base=True)
        self._drop(user)
        if state.events:
            self._states[user] = state
            self._num_events += len(state.events)
        while len(self._states) > self._max_users or (
            self._num_events > self._max_events and len(self._states) > 1
        ):
            self._drop(next(iter(self._states)))
        return result

    async def remove(self, user: str) -> bool:
        """As the base class says."""
        known = self._find(user) is not None
        self._drop(user)
        self._forgotten.pop(user, None)
        return known

    async def count(self) -> int | None:
        """Users with events."""
        return len(self._states)

    def _drop(self, user: str) -> None:
        state = self._states.pop(user, None)
        if state is not None:
            self._num_events -= len(state.events)

    def _find(self, user: str) -> UserState | None:
        if user in self._states:
            self._states.move_to_end(user)
            return self._states[user]
        return self._forgotten.get(user)
