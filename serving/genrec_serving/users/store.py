"""The interface of every store of users' events, and what all stores have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from genrec_model.errors import StoreError
from genrec_serving.users.events import Appended, UserEvent, UserState, merge, new_tag
from genrec_serving.users.known_ids import KnownIds

Result = TypeVar("Result")
#: From a user's state, None where there is none, to the next state and a result. It may be called
#: more than once, where a store has to try again.
Change = Callable[[UserState | None], tuple[UserState, Result]]


class HistoryStore(ABC):
    """Events of users, by a user's id as text.

    Args:
        events_per_user: most events that are kept of a user.
    """

    #: As `/v1/stats` names it.
    name: str

    def __init__(self, *, events_per_user: int) -> None:
        self.events_per_user = events_per_user
        self._ids = KnownIds()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(UserState)

    async def append(self, user: str, events: Sequence[UserEvent]) -> Appended:
        """Keep events that are not kept yet; when this returns they are safe.

        Raises:
            StoreError: the store does not answer; any or none of the events may be kept, and to
                append them again is right.
        """
        return (await self.append_and_read(user, events))[0]

    async def append_and_read(
        self, user: str, events: Sequence[UserEvent]
    ) -> tuple[Appended, UserState]:
        """As `append`, and the state after it: all that was appended before this was called is in.

        Raises:
            StoreError: as `append`.
        """

        def change(state: UserState | None) -> tuple[UserState, tuple[Appended, UserState]]:
            known = self._ids.take(user, state)
            after, appended = merge(state, events, limit=self.events_per_user, known=known)
            self._ids.keep(user, after, known)
            return after, (appended, after)

        return await self.update(user, change)

    async def forget(self, user: str, *, hide_base: bool) -> bool:
        """Remove all events of a user; whether there were any.

        Args:
            user: their id.
            hide_base: keep a mark that their events in the data set do not count either.

        Raises:
            StoreError: the store does not answer.
        """
        if not hide_base:
            return await self.remove(user)
        return await self.update(
            user,
            lambda state: (
                UserState(new_tag(), hides_base=True),
                state is None or not state.hides_base or bool(state.events),
            ),
        )

    @abstractmethod
    async def read(self, user: str) -> UserState | None:
        """State of a user, None where the store does not know them.

        Raises:
            StoreError: the store does not answer.
        """

    @abstractmethod
    async def tag(self, user: str) -> str | None:
        """Tag of the user's state: cheaper than the state.

        Raises:
            StoreError: the store does not answer.
        """

    @abstractmethod
    async def update(self, user: str, change: Change[Result]) -> Result:
        """Change a user's state as if nobody else did at the same time.

        Raises:
            StoreError: the store does not answer.
        """

    @abstractmethod
    async def remove(self, user: str) -> bool:
        """Remove a user's state; whether there was one.

        Raises:
            StoreError: the store does not answer.
        """

    @abstractmethod
    async def count(self) -> int | None:
        """Number of users; None where to count them would take long.

        Raises:
            StoreError: the store does not answer.
        """

    async def close(self) -> None:  # noqa: B027  # not every store holds something
        """Give back what the store holds."""

    def _encode(self, state: UserState) -> bytes:
        """As it is stored."""
        return self._encoder.encode(state)

    def _decode(self, state: bytes) -> UserState:
        """The reverse.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return self._decoder.decode(state)
        except msgspec.MsgspecError as error:
            raise StoreError(f"user store {self.name}: a state cannot be read ({error})") from error
