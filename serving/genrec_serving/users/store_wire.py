"""What goes between a store of users in a process of its own and who asks it, as msgpack."""

from __future__ import annotations

import msgspec

from genrec_serving.users.events import Appended, StateRecord
from genrec_serving.users.user_event import UserEvent


class _Question(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Something that is asked.

    id: no other one of the moment.
    """

    id: int


class Append(_Question, frozen=True, array_like=True, tag=True, gc=False):
    """Keep events; answered with the state.

    has: tag of the state that who asks has already, None for none.
    """

    user: str
    events: list[UserEvent]
    has: str | None


class Read(_Question, frozen=True, array_like=True, tag=True, gc=False):
    """The state; `has` as in `Append`."""

    user: str
    has: str | None


class Tag(_Question, frozen=True, array_like=True, tag=True, gc=False):
    """The tag of the state."""

    user: str


class Forget(_Question, frozen=True, array_like=True, tag=True, gc=False):
    """As `HistoryStore.forget`."""

    user: str
    hide_base: bool


class Count(_Question, frozen=True, array_like=True, tag=True, gc=False):
    """How many users there are."""


Question = Append | Read | Tag | Forget | Count


class Reply(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was asked for, of these.

    id: of the question.
    state: without the first `known` events, which who asked has.
    appended: what became of events.
    tag: of the state.
    forgotten: whether there was something to forget.
    count: of users.
    error: why the store does not answer.
    """

    id: int
    state: StateRecord | None = None
    known: int = 0
    appended: Appended | None = None
    tag: str | None = None
    forgotten: bool = False
    count: int | None = None
    error: str | None = None
