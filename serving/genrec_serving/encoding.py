"""From ids, names and times of a request to the indices of the model, checked.

Letters in shapes: n events of a history.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec_model.errors import RequestError
from genrec_model.features.rows import Ints, UserRows, history_rows, window_start
from genrec_model.features.vocabulary import ItemId, Vocabulary
from genrec_model.hstu import HSTUConfig
from genrec_serving.histories import IndexedHistory
from genrec_serving.requests import MAX_AHEAD_S, MAX_EVENTS, Events, Query
from genrec_serving.users.events import Kept
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.user_event import UserEvent

#: Times beyond this (year 36812) are milliseconds by mistake, or nonsense.
MAX_TIME = 2**40


class Encoder:
    """Checks requests against one model.

    Args:
        vocabulary: of the model.
        users: whom the server knows.
    """

    def __init__(self, vocabulary: Vocabulary, users: UserHistories | None = None) -> None:
        self._vocabulary = vocabulary
        self._users = users

    async def history(self, query: Query, *, now: int) -> IndexedHistory:
        """The history that a query gives or names.

        Raises:
            RequestError: it gives none or both, or something in it is wrong.
            StoreError: the store of users' events does not answer.
        """
        _check_now(now)
        if query.history is not None:
            if query.user_id is not None:
                raise RequestError("give either history or user_id, not both", field="user_id")
            return self._encode(query.history, now=now)
        if query.user_id is None:
            raise RequestError("give history, or the user_id of a known user", field="history")
        if self._users is None:
            raise RequestError(
                "this server keeps no histories: give history instead", field="user_id"
            )
        known = await self._users.get(query.user_id)
        if known is None:
            raise RequestError(f"user {query.user_id!r} is unknown", field="user_id", status=404)
        return known.until(now)

    def appending_user(self, query: Query) -> ItemId:
        """Whose events a query brings.

        Raises:
            RequestError: it names nobody, or this server keeps no users.
        """
        if query.history is not None or query.user_id is None:
            raise RequestError("goes with user_id, not with history", field="events")
        if self._users is None:
            raise RequestError("this server keeps no users", field="events")
        if query.now is not None:
            _check_now(query.now)
        return query.user_id

    async def append(
        self, user: ItemId, events: Sequence[UserEvent], *, now: int
    ) -> tuple[Kept, IndexedHistory]:
        """Keep events; see `UserHistories.append_and_get`.

        Raises:
            RequestError: something in an event is wrong; none is kept.
            StoreError: the store does not answer.
        """
        assert self._users is not None, "checked by appending_user"
        return await self._users.append_and_get(user, events, now=now)

    def items(self, ids: Sequence[ItemId], *, field: str, limit: int) -> Ints:
        """Rows of the item table, int64 [len(ids)].

        Args:
            ids: item ids.
            field: name of the list in the request.
            limit: most ids that it may have.

        Raises:
            RequestError: there are too many, or the catalogue lacks one.
        """
        if len(ids) > limit:
            raise RequestError(f"{len(ids)} items; {limit} are the most", field=field)
        index_of = self._vocabulary.index_of
        rows = [index_of.get(item) for item in ids]
        if None in rows:
            at = rows.index(None)
            raise RequestError(self._unknown_item(ids[at]), field=f"{field}[{at}]")
        return np.array(rows, np.int64)

    def known_items(self, ids: Sequence[ItemId], *, field: str) -> Ints:
        """As `items`, for lists that filter: ids that the catalogue lacks filter nothing.

        Raises:
            RequestError: there are too many.
        """
        if len(ids) > MAX_EVENTS:
            raise RequestError(f"{len(ids)} items; {MAX_EVENTS} are the most", field=field)
        index_of = self._vocabulary.index_of
        return np.array([index_of[item] for item in ids if item in index_of], np.int64)

    def _encode(self, events: Events, *, now: int) -> IndexedHistory:
        n = len(events.item_ids)
        if n > MAX_EVENTS:
            raise RequestError(f"{n} events; {MAX_EVENTS} are the most", field="history")
        timestamps = self._times(events.timestamps, now=now)
        index_of, action_index_of = self._vocabulary.index_of, self._vocabulary.action_index_of
        items = [index_of.get(item) for item in events.item_ids]
        if None in items:
            at = items.index(None)
            raise RequestError(
                self._unknown_item(events.item_ids[at]), field=f"history[{at}].item_id"
            )
        actions = [action_index_of.get(action) for action in events.actions]
        if None in actions:
            at = actions.index(None)
            raise RequestError(
                f"action {events.actions[at]!r} is unknown: use one of "
                f"{', '.join(self._vocabulary.actions)}",
                field=f"history[{at}].action",
            )
        return IndexedHistory(
            items=np.array(items, np.int64),
            actions=np.array(actions, np.int64),
            timestamps=timestamps,
        )

    def _times(self, timestamps: Sequence[int], *, now: int) -> Ints:
        """Int64 [n], checked."""
        latest = now + MAX_AHEAD_S
        for i, time in enumerate(timestamps):
            if not 0 <= time <= latest:
                wrong = "in the future" if time > latest else "negative"
                raise RequestError(
                    f"{time} is {wrong}; times are unix seconds, now is {now}",
                    field=f"history[{i}].timestamp",
                )
        times = np.array(timestamps, np.int64)
        backwards = np.flatnonzero(np.diff(times) < 0)
        if len(backwards):
            at = int(backwards[0]) + 1
            raise RequestError(
                f"{times[at]} is before the event above it ({times[at - 1]}); give the oldest "
                "event first",
                field=f"history[{at}].timestamp",
            )
        return times

    def _unknown_item(self, item: ItemId) -> str:
        example = self._vocabulary.item_ids[0]
        hint = ""
        if type(example) is not type(item):
            hint = f"; ids of this catalogue look like {example!r}"
        return f"item {item!r} is not in the catalogue{hint}"


def _check_now(now: int) -> None:
    if not 0 <= now <= MAX_TIME:
        raise RequestError(f"{now} is not a time in unix seconds", field="now")


def user_rows(history: IndexedHistory, config: HSTUConfig, *, now: int) -> UserRows:
    """The part of a history that the model sees, with its start row."""
    start = window_start(len(history), config.max_history, config.chunk_size)
    seen = history.since(start)
    return history_rows(seen.items, seen.actions, seen.timestamps, now=now)
