"""Histories by user id: events of the data set, extended by appended ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from genrec_model.errors import RequestError
from genrec_model.features.reserved import UNKNOWN, UNKNOWN_ACTION
from genrec_model.features.vocabulary import ItemId, Vocabulary
from genrec_serving.histories import IndexedHistory, ParquetHistories
from genrec_serving.requests import MAX_AHEAD_S
from genrec_serving.sized_lru import SizedLru
from genrec_serving.users.events import MAX_APPEND, MAX_ID_LENGTH, Kept, Mark, UserState, mark_of
from genrec_serving.users.store import HistoryStore
from genrec_serving.users.user_event import UserEvent

#: Events of all histories that are kept in the model's indices, 24 bytes each.
MAX_INDEXED_EVENTS = 2_000_000


class UserView(NamedTuple):
    """What is held of a user.

    events: appended ones, in order of time.
    dataset_events: further events, from the data set.
    """

    events: Sequence[UserEvent]
    dataset_events: int


class _Indexed(NamedTuple):
    """A history in the model's indices.

    tag: of the state that it was made from.
    mark: of its events.
    """

    tag: str
    history: IndexedHistory
    mark: Mark


class UserHistories:
    """What the server knows of users. 42 and "42" are the same user.

    Args:
        vocabulary: of the model. Items and actions that it lacks become its "unknown", as in
            training.
        store: appended events.
        base: events of the data set.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, store: HistoryStore, base: ParquetHistories | None = None
    ) -> None:
        self._vocabulary = vocabulary
        self.store = store
        self.base = base
        self._indexed: SizedLru[str, _Indexed] = SizedLru(
            MAX_INDEXED_EVENTS, lambda indexed: len(indexed.history)
        )

    async def get(self, user_id: ItemId) -> IndexedHistory | None:
        """All events of the user in order of time, None for a user who is not known.

        Raises:
            StoreError: the store does not answer.
        """
        user = str(user_id)
        tag = await self.store.tag(user)
        if tag is None:
            return self._from_base(user_id)
        found = self._indexed.get(user)
        if found is not None and found.tag == tag:
            return found.history
        state = await self.store.read(user)
        if state is None:  # forgotten in between
            return self._from_base(user_id)
        return self._index(user_id, state)

    async def append(self, user_id: ItemId, events: Sequence[UserEvent], *, now: int) -> Kept:
        """Keep events that are not kept yet; what became of them.

        Args:
            user_id: any user.
            events: in any order.
            now: unix seconds.

        Raises:
            RequestError: something in an event is wrong; none is kept.
            StoreError: the store does not answer.
        """
        return (await self.append_and_get(user_id, events, now=now))[0]

    async def append_and_get(
        self, user_id: ItemId, events: Sequence[UserEvent], *, now: int
    ) -> tuple[Kept, IndexedHistory]:
        """As `append`, and all events of the user after it: as `get`, without asking again.

        Raises:
            RequestError, StoreError: as `append`.
        """
        check_user(user_id)
        self._check(events, now=now)
        appended, state = await self.store.append_and_read(str(user_id), events)
        index_of = self._vocabulary.index_of
        kept = Kept(appended, sum(e.item_id not in index_of for e in events))
        history = self._index(user_id, state)
        return kept, self._encoded(()) if history is None else history

    async def view(self, user_id: ItemId) -> UserView | None:
        """What is held of a user, None for one who is not known.

        Raises:
            StoreError: the store does not answer.
        """
        state = await self.store.read(str(user_id)) or UserState("")
        base = None if state.hides_base else self._from_base(user_id)
        if base is None and not state.events:
            return None
        return UserView(state.events, 0 if base is None else len(base))

    async def forget(self, user_id: ItemId) -> bool:
        """Forget all of a user, also their events in the data set; whether there was something.

        Raises:
            StoreError: the store does not answer.
        """
        user = str(user_id)
        in_base = self._from_base(user_id) is not None
        forgotten = await self.store.forget(user, hide_base=in_base)
        self._indexed.pop(user)
        return forgotten

    def _check(self, events: Sequence[UserEvent], *, now: int) -> None:
        """Refuse what no model could ever use; a new item is none of it."""
        if not 1 <= len(events) <= MAX_APPEND:
            raise RequestError(f"{len(events)} events; give 1 to {MAX_APPEND}", field="events")
        vocabulary = self._vocabulary
        example = vocabulary.item_ids[0]
        for i, event in enumerate(events):
            if not 1 <= len(event.event_id) <= MAX_ID_LENGTH:
                raise RequestError(
                    f"give 1 to {MAX_ID_LENGTH} characters", field=f"events[{i}].event_id"
                )
            if type(event.item_id) is not type(example) or not _storable(event.item_id):
                raise RequestError(
                    f"ids of this catalogue look like {example!r}", field=f"events[{i}].item_id"
                )
            if event.action not in vocabulary.action_index_of:
                raise RequestError(
                    f"action {event.action!r} is unknown: use one of "
                    f"{', '.join(vocabulary.actions)}",
                    field=f"events[{i}].action",
                )
            if not 0 <= event.timestamp <= now + MAX_AHEAD_S:
                raise RequestError(
                    f"{event.timestamp} is negative or in the future; times are unix seconds, "
                    f"now is {now}",
                    field=f"events[{i}].timestamp",
                )

    def _from_base(self, user_id: ItemId) -> IndexedHistory | None:
        return None if self.base is None else self.base.get(self.base.user_key(user_id))

    def _index(self, user_id: ItemId, state: UserState) -> IndexedHistory | None:
        """A state in the model's indices; only what is new is encoded, where that is known."""
        user, events = str(user_id), state.events
        if not events:
            self._indexed.pop(user)
            return None if state.hides_base else self._from_base(user_id)
        found = self._indexed.get(user)
        if found is not None and found.tag == state.tag:
            return found.history
        history = None if found is None else self._extended(found, state)
        if history is None:
            base = None if state.hides_base else self._from_base(user_id)
            history = self._encoded(events)
            history = history if base is None else base.merged(history)
        self._indexed.put(user, _Indexed(state.tag, history, mark_of(state)))
        return history

    def _extended(self, found: _Indexed, state: UserState) -> IndexedHistory | None:
        """The history with the events after those that it has; None where these changed."""
        if not found.mark.is_beginning_of(state.events):
            return None
        fresh = self._encoded(state.events[found.mark.size :])
        if len(found.history) and fresh.timestamps[0] < found.history.timestamps[-1]:
            return None  # the data set has later ones
        return found.history.followed_by(fresh)

    def _encoded(self, events: Sequence[UserEvent]) -> IndexedHistory:
        index_of, action_index_of = self._vocabulary.index_of, self._vocabulary.action_index_of
        return IndexedHistory(
            items=np.array([index_of.get(e.item_id, UNKNOWN) for e in events], np.int64),
            actions=np.array(
                [action_index_of.get(e.action, UNKNOWN_ACTION) for e in events], np.int64
            ),
            timestamps=np.array([e.timestamp for e in events], np.int64),
        )


def check_user(user_id: ItemId) -> None:
    """Bound what a store is asked for.

    Raises:
        RequestError: the id is empty or too long.
    """
    if not 1 <= len(str(user_id)) <= MAX_ID_LENGTH:
        raise RequestError(f"give 1 to {MAX_ID_LENGTH} characters", field="user_id")


def _storable(item: ItemId) -> bool:
    return -(2**63) <= item < 2**63 if isinstance(item, int) else len(item) <= MAX_ID_LENGTH
