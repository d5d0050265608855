"""Ids of users' events, so that a new event need not be compared with all of them."""

from __future__ import annotations

from typing import NamedTuple

from genrec_serving.sized_lru import SizedLru
from genrec_serving.users.events import Mark, UserState, ids_of, mark_of

#: Ids of all users that are remembered, some 60 bytes each.
MAX_IDS = 1_000_000


class _Known(NamedTuple):
    """The ids of a state's events."""

    tag: str
    mark: Mark
    ids: set[str]


class KnownIds:
    """The ids of the users who came last. Used from one thread.

    Args:
        most: ids of all users.
    """

    def __init__(self, most: int = MAX_IDS) -> None:
        self._of: SizedLru[str, _Known] = SizedLru(most, lambda known: len(known.ids))

    def take(self, user: str, state: UserState | None) -> set[str]:
        """Ids of a state's events; they are the caller's now."""
        found = self._of.pop(user)
        if state is None:
            return set()
        if found is None:
            return ids_of(state)
        if found.tag == state.tag:
            return found.ids
        if not found.mark.is_beginning_of(state.events):
            return ids_of(state)
        # Another process appended some.
        found.ids.update(event.event_id for event in state.events[found.mark.size :])
        return found.ids

    def keep(self, user: str, state: UserState, known: set[str]) -> None:
        """Remember the ids of a state; they are not the caller's any more."""
        if state.events:
            self._of.put(user, _Known(state.tag, mark_of(state), known))
        else:
            self._of.pop(user)
