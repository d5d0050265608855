"""Where events of users are kept, beyond one request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from genrec_serving.users.events import Appended, UserState
from genrec_serving.users.user_event import UserEvent


class HistoryStore(ABC):
    """Events of users, by a user's id as text.

    Args:
        events_per_user: most events that are kept of a user.
    """

    #: As `/v1/stats` names it.
    name: str

    def __init__(self, *, events_per_user: int) -> None:
        self.events_per_user = events_per_user

    async def append(self, user: str, events: Sequence[UserEvent]) -> Appended:
        """Keep events that are not kept yet; when this returns they are safe.

        Raises:
            StoreError: the store does not answer; any or none of the events may be kept, and to
                append them again is right.
        """
        return (await self.append_and_read(user, events))[0]

    @abstractmethod
    async def append_and_read(
        self, user: str, events: Sequence[UserEvent]
    ) -> tuple[Appended, UserState]:
        """As `append`, and the state after it: all that was appended before this was called is in.

        Raises:
            StoreError: as `append`.
        """

    @abstractmethod
    async def forget(self, user: str, *, hide_base: bool) -> bool:
        """Remove all events of a user; whether there were any.

        Args:
            user: their id.
            hide_base: keep a mark that their events in the data set do not count either.

        Raises:
            StoreError: the store does not answer.
        """

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
    async def count(self) -> int | None:
        """Number of users; None where to count them would take long.

        Raises:
            StoreError: the store does not answer.
        """

    async def close(self) -> None:  # noqa: B027  # not every store holds something
        """Give back what the store holds."""
