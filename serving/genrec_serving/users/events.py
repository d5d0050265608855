"""Events of one user, as a store keeps them, and the one rule by which they are merged.

All stores keep a user's state as one value and change it by `merge`, so that they cannot differ
in what is a duplicate, what comes first and what is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from genrec_serving.ids import new_id
from genrec_serving.users.event_log import EventLog
from genrec_serving.users.user_event import UserEvent

#: Most events of one append.
MAX_APPEND = 1000
MAX_ID_LENGTH = 128
#: Old events leave in multiples of this. It is a multiple of every chunk in which a model cuts its
#: histories (16, 32, ..., 512), so that what remains is cut at the same events as before, and the
#: cached pages of the user stay good.
TRIM = 512


class UserState(msgspec.Struct, frozen=True, gc=False):
    """All that a store knows of one user.

    Args:
        tag: another one after every change; never used twice.
        events: in order of time; events of one second in the order in which they came.
        horizon: time of the newest event that was dropped because there were too many.
        hides_base: whether the user was forgotten, so that their events in the data set do not
            count any more.
    """

    tag: str
    events: EventLog = EventLog()
    horizon: int | None = None
    hides_base: bool = False

    def record(self, *, known: int = 0) -> StateRecord:
        """As it is stored or sent, without the first `known` events."""
        return StateRecord(self.tag, self.events[known:], self.horizon, self.hides_base)

    def extends(self, before: UserState) -> bool:
        """Whether this is `before` with further events after its last one, so far as is known."""
        return (
            bool(before.events)
            and self.horizon == before.horizon
            and self.hides_base == before.hides_base
            and mark_of(before).is_beginning_of(self.events)
        )


class StateRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A `UserState` as msgpack has it."""

    tag: str
    events: list[UserEvent]
    horizon: int | None = None
    hides_base: bool = False

    def state(self, before: EventLog | None = None) -> UserState:
        """The state, whose events come after those of `before`. The record is not used again."""
        events = EventLog(self.events) if before is None else before.followed_by(self.events)
        return UserState(self.tag, events, self.horizon, self.hides_base)


class Mark(NamedTuple):
    """What a state's events are known by again, without keeping them all.

    first, last: of its events.
    size: how many they are.
    """

    first: UserEvent
    last: UserEvent
    size: int

    def is_beginning_of(self, events: Sequence[UserEvent]) -> bool:
        """Whether these are the events with further ones after the last; False where not known.

        Events are never changed, leave only at the front and come in order: so the same objects in
        the same places say that nothing came between, and that nothing left.
        """
        n = self.size
        return n < len(events) and events[0] is self.first and events[n - 1] is self.last


def mark_of(state: UserState) -> Mark:
    """Of a state with events."""
    return Mark(state.events[0], state.events[-1], len(state.events))


class Appended(NamedTuple):
    """What became of appended events.

    accepted: kept now.
    duplicates: known before, by their ids.
    too_old: not kept, as events of their time were dropped already.
    held: events of the user that are kept now.
    """

    accepted: int
    duplicates: int
    too_old: int
    held: int


class Kept(NamedTuple):
    """What became of appended events, and of how many items the model knows nothing.

    appended: by the store.
    unknown_items: events of items that the model does not know yet.
    """

    appended: Appended
    unknown_items: int


def merge(
    state: UserState | None,
    events: Sequence[UserEvent],
    *,
    limit: int,
    known: set[str] | None = None,
) -> tuple[UserState, Appended]:
    """The state with the events in it; the same object where nothing is new.

    Args:
        state: None for a user who is not known.
        events: in any order.
        limit: most events that are kept, more than `TRIM`.
        known: ids of the state's events, where the caller has them; those of the next state after
            this.
    """
    state = state or UserState(new_tag())
    if known is None:
        known = ids_of(state)
    fresh: list[UserEvent] = []
    duplicates = too_old = 0
    for event in events:
        if event.event_id in known:
            duplicates += 1
        elif state.horizon is not None and event.timestamp <= state.horizon:
            # It may be one that was kept once and dropped: its id is not known any more.
            too_old += 1
        else:
            known.add(event.event_id)
            fresh.append(event)
    if fresh:
        fresh.sort(key=attrgetter("timestamp"))
        if state.events and fresh[0].timestamp < state.events[-1].timestamp:
            merged = EventLog(sorted([*state.events, *fresh], key=attrgetter("timestamp")))
        else:
            merged = state.events.followed_by(fresh)
        horizon = state.horizon
        surplus = max(len(merged) - limit, 0)
        if surplus:
            kept_from = -(-surplus // TRIM) * TRIM
            dropped, merged = merged[:kept_from], EventLog(merged[kept_from:])
            known.difference_update(event.event_id for event in dropped)
            horizon = dropped[-1].timestamp
        state = UserState(new_tag(), merged, horizon, state.hides_base)
    return state, Appended(len(fresh), duplicates, too_old, len(state.events))


def ids_of(state: UserState) -> set[str]:
    """Ids of a state's events."""
    return {event.event_id for event in state.events}


def new_tag() -> str:
    """A tag that no state ever had, on this replica or another."""
    return new_id()
