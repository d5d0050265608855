"""Ids of users' events, so that a new event need not be compared with all of them."""

from __future__ import annotations

from collections import OrderedDict

from genrec_serving.users.events import UserState, ids_of

#: Ids of all users that are remembered, some 60 bytes each.
MAX_IDS = 1_000_000


class KnownIds:
    """The ids of the users who came last. Used from one thread.

    Args:
        most: ids of all users.
    """

    def __init__(self, most: int = MAX_IDS) -> None:
        self._most = most
        self._count = 0
        self._of: OrderedDict[str, tuple[str, set[str]]] = OrderedDict()

    def take(self, user: str, state: UserState | None) -> set[str]:
        """Ids of a state's events; they are the caller's now."""
        if state is None:
            return set()
        tag, known = self._of.pop(user, ("", set()))
        self._count -= len(known)
        return known if tag == state.tag else ids_of(state)

    def keep(self, user: str, state: UserState, known: set[str]) -> None:
        """Remember the ids of a state; they are not the caller's any more."""
        self._count -= len(self._of.pop(user, ("", ()))[1])
        self._of[user] = state.tag, known
        self._count += len(known)
        while self._count > self._most and len(self._of) > 1:
            _, (_, dropped) = self._of.popitem(last=False)
            self._count -= len(dropped)
