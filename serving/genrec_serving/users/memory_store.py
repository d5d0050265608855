"""Events in this process: fast, and gone with it."""

from __future__ import annotations

from collections import OrderedDict

from genrec_serving.users.events import UserState
from genrec_serving.users.store import Change, HistoryStore, Result


class MemoryStore(HistoryStore):
    """The users who were last asked for; others are dropped, the least recent first.

    Marks of forgotten users are never dropped: with them, their data-set events would come back.

    Args:
        events_per_user: most events that are kept of a user.
        max_users: most users.
    """

    name = "memory"

    def __init__(self, *, events_per_user: int, max_users: int) -> None:
        super().__init__(events_per_user=events_per_user)
        self._max_users = max_users
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
        if state.events:
            self._states[user] = state
            self._states.move_to_end(user)
        else:
            self._states.pop(user, None)
        while len(self._states) > self._max_users:
            self._states.popitem(last=False)
        return result

    async def remove(self, user: str) -> bool:
        """As the base class says."""
        known = self._find(user) is not None
        self._states.pop(user, None)
        self._forgotten.pop(user, None)
        return known

    async def count(self) -> int | None:
        """Users with events."""
        return len(self._states)

    def _find(self, user: str) -> UserState | None:
        if user in self._states:
            self._states.move_to_end(user)
            return self._states[user]
        return self._forgotten.get(user)
