"""A store of users in another process, which several processes ask."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from genrec_model.errors import StoreError
from genrec_serving.sized_lru import SizedLru
from genrec_serving.sockets.link import Link
from genrec_serving.users.events import Appended, UserState
from genrec_serving.users.store import HistoryStore
from genrec_serving.users.store_wire import Append, Count, Forget, Read, Reply, Tag
from genrec_serving.users.user_event import UserEvent

#: Events of all states that are kept in this process, some 300 bytes each.
_MAX_EVENTS = 1_000_000


class ConnectedStore(HistoryStore):
    """Asks the store behind a door. Used from one event loop, in which it is made.

    It keeps the states that came last, so that only events that are new to it are sent.

    Args:
        path: of the door's socket.
        name: of the store behind it.
        events_per_user: most events that it keeps of a user.
        timeout_s: for one answer.
    """

    def __init__(
        self, path: str, *, name: str, events_per_user: int, timeout_s: float = 5.0
    ) -> None:
        super().__init__(events_per_user=events_per_user)
        self.name = name
        self._timeout_s = timeout_s
        self._states: SizedLru[str, UserState] = SizedLru(
            _MAX_EVENTS, lambda state: len(state.events)
        )
        self._link = Link(path, Reply, _lost)
        self._changed = asyncio.Event()
        self._keeping = asyncio.create_task(self._link.keep(self._changed.set))

    async def wait_until_up(self) -> None:
        """Wait until the store can be asked."""
        while not self._link.up:
            self._changed.clear()
            await self._changed.wait()

    async def append_and_read(
        self, user: str, events: Sequence[UserEvent]
    ) -> tuple[Appended, UserState]:
        """As the base class says."""
        had = self._states.get(user)
        has = None if had is None else had.tag
        reply = await self._ask(partial(Append, user=user, events=list(events), has=has))
        state = self._whole(user, had, reply)
        if state is None or reply.appended is None:
            raise StoreError(f"user store {self.name}: its answer lacks the state")
        return reply.appended, state

    async def read(self, user: str) -> UserState | None:
        """As the base class says."""
        had = self._states.get(user)
        has = None if had is None else had.tag
        return self._whole(user, had, await self._ask(partial(Read, user=user, has=has)))

    async def tag(self, user: str) -> str | None:
        """As the base class says."""
        return (await self._ask(partial(Tag, user=user))).tag

    async def forget(self, user: str, *, hide_base: bool) -> bool:
        """As the base class says."""
        reply = await self._ask(partial(Forget, user=user, hide_base=hide_base))
        self._states.pop(user)
        return reply.forgotten

    async def count(self) -> int | None:
        """As the store behind the door says."""
        return (await self._ask(Count)).count

    async def close(self) -> None:
        """Leave the store, which lives on."""
        self._keeping.cancel()
        self._link.close()

    async def _ask(self, question: Callable[[int], msgspec.Struct]) -> Reply:
        try:
            async with asyncio.timeout(self._timeout_s):
                reply = await self._link.ask(question)
        except TimeoutError as error:
            raise StoreError(
                f"user store {self.name}: no answer in {self._timeout_s:g} s"
            ) from error
        if reply.error is not None:
            raise StoreError(reply.error)
        return reply

    def _whole(self, user: str, had: UserState | None, reply: Reply) -> UserState | None:
        """The state of a reply, with the events that were known when it was asked for."""
        if reply.state is None:
            self._states.pop(user)
            return None
        if had is None or not reply.known:
            state = reply.state.state()
        elif had.tag == reply.state.tag:
            state = had
        else:  # all that it had is known
            state = reply.state.state(had.events)
        self._states.put(user, state)
        return state


def _lost() -> StoreError:
    return StoreError("user store: its process ended, and is started again")
