"""Events of one user, as a store keeps them, and the one rule by which they are merged.

All stores keep a user's state as one value and change it by `merge`, so that they cannot differ
in what is a duplicate, what comes first and what is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from genrec_model.features.vocabulary import ItemId
from genrec_serving.ids import new_id

#: Most events of one append.
MAX_APPEND = 1000
MAX_ID_LENGTH = 128
#: Old events leave in multiples of this. It is a multiple of every chunk in which a model cuts its
#: histories (16, 32, ..., 256), so that what remains is cut at the same events as before, and the
#: cached pages of the user stay good.
TRIM = 256


class UserEvent(msgspec.Struct, frozen=True, array_like=True):
    """Something that a user did.

    Args:
        event_id: chosen by the client; an event is kept once, however often it is appended.
        item_id: may be an item that the model does not know yet.
        action: of the data set.
        timestamp: unix seconds.
        value: rating or spend; kept for training, not used.
    """

    event_id: str
    item_id: ItemId
    action: str
    timestamp: int
    value: float | None = None


class UserState(msgspec.Struct, frozen=True, array_like=True):
    """All that a store knows of one user.

    Args:
        tag: another one after every change; never used twice.
        events: in order of time; events of one second in the order in which they came.
        horizon: time of the newest event that was dropped because there were too many.
        hides_base: whether the user was forgotten, so that their events in the data set do not
            count any more.
    """

    tag: str
    events: tuple[UserEvent, ...] = ()
    horizon: int | None = None
    hides_base: bool = False


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
    state: UserState | None, events: Sequence[UserEvent], *, limit: int
) -> tuple[UserState, Appended]:
    """The state with the events in it; the same object where nothing is new.

    Args:
        state: None for a user who is not known.
        events: in any order.
        limit: most events that are kept, more than `TRIM`.
    """
    state = state or UserState(new_tag())
    known = {event.event_id for event in state.events}
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
        merged = sorted((*state.events, *fresh), key=attrgetter("timestamp"))
        surplus = max(len(merged) - limit, 0)
        dropped = -(-surplus // TRIM) * TRIM
        state = UserState(
            tag=new_tag(),
            events=tuple(merged[dropped:]),
            horizon=merged[dropped - 1].timestamp if dropped else state.horizon,
            hides_base=state.hides_base,
        )
    return state, Appended(len(fresh), duplicates, too_old, len(state.events))


def new_tag() -> str:
    """A tag that no state ever had, on this replica or another."""
    return new_id()
