"""Stores that keep a user's state as one value, and change it at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from genrec_model.errors import StoreError
from genrec_serving.users.events import Appended, StateRecord, UserState, merge, new_tag
from genrec_serving.users.known_ids import KnownIds
from genrec_serving.users.store import HistoryStore
from genrec_serving.users.user_event import UserEvent

Result = TypeVar("Result")
#: From a user's state, None where there is none, to the next state and a result. It may be called
#: more than once, where a store has to try again.
Change = Callable[[UserState | None], tuple[UserState, Result]]


class StateStore(HistoryStore):
    """A store that has `update`, through which all is changed by the same rule.

    Args:
        events_per_user: most events that are kept of a user.
    """

    def __init__(self, *, events_per_user: int) -> None:
        super().__init__(events_per_user=events_per_user)
        self._ids = KnownIds()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(StateRecord)

    async def append_and_read(
        self, user: str, events: Sequence[UserEvent]
    ) -> tuple[Appended, UserState]:
        """As the base class says."""

        def change(state: UserState | None) -> tuple[UserState, tuple[Appended, UserState]]:
            known = self._ids.take(user, state)
            after, appended = merge(state, events, limit=self.events_per_user, known=known)
            self._ids.keep(user, after, known)
            return after, (appended, after)

        return await self.update(user, change)

    async def forget(self, user: str, *, hide_base: bool) -> bool:
        """As the base class says."""
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

    def _encode(self, state: UserState) -> bytes:
        """As it is stored."""
        return self._encoder.encode(state.record())

    def _decode(self, state: bytes) -> UserState:
        """The reverse.

        Raises:
            StoreError: it cannot be read.
        """
        try:
            return self._decoder.decode(state).state()
        except msgspec.MsgspecError as error:
            raise StoreError(f"user store {self.name}: a state cannot be read ({error})") from error
