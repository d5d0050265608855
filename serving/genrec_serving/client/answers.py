"""What a client sends and gets. Fields that a newer server adds are left out."""

from __future__ import annotations

from uuid import uuid4

import msgspec

ItemId = int | str


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that a user did.

    Args:
        item_id: of the catalogue, or a new item.
        action: of the data set.
        timestamp: unix seconds.
        value: rating or spend.
        event_id: makes it safe to send the event again; made up where None.
    """

    item_id: ItemId
    action: str
    timestamp: int
    value: float | None = None
    event_id: str | None = None

    def with_id(self) -> Event:
        """The event with an id, so that it can be appended."""
        if self.event_id is not None:
            return self
        return msgspec.structs.replace(self, event_id=uuid4().hex)


class ScoredItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an answer.

    Args:
        score: next-item logit.
        tasks: probability of each task that the model has.
    """

    item_id: ItemId
    title: str
    score: float
    tasks: dict[str, float]


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model that answered."""

    name: str
    version: str


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of appended events. They are safe now.

    Args:
        accepted: kept.
        duplicates: kept before.
        too_old: not kept, as events of their time were dropped already.
        unknown_items: of items that the model does not know yet.
        held: events of the user that are kept now.
    """

    accepted: int
    duplicates: int
    too_old: int
    unknown_items: int
    held: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Items, best first, and how they were found.

    Args:
        strategy: engine that was used.
        fallback: why it is not the preferred one; None where it is.
        history_events: events that the model saw.
        cached_events: of these, those that were not computed again.
        appended: what became of the events of the question; None where it brought none.
        timings_ms: milliseconds by stage, and `total`.
    """

    items: list[ScoredItem]
    model: Model
    strategy: str
    fallback: str | None
    history_events: int
    cached_events: int
    timings_ms: dict[str, float]
    appended: Appended | None = None


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong, and where."""

    field: str
    message: str


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with one request of a batch."""

    error: ErrorDetail
    status: int


class User(msgspec.Struct, frozen=True, kw_only=True):
    """What is held of a user.

    Args:
        held: appended events.
        dataset_events: further events, from the data set.
        events: the latest appended ones, oldest first.
    """

    held: int
    dataset_events: int
    events: list[Event]
