"""The way from one event loop to a process that answers; found again when it was lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from genrec_model.errors import GenrecError
from genrec_serving.sockets.frames import FrameReader, length_of

#: Between two tries to reach the process.
_TRY_S = 0.1


class _HasId(Protocol):
    """A reply says which question it answers."""

    @property
    def id(self) -> int: ...


Reply = TypeVar("Reply", bound=_HasId)


class Link(asyncio.Protocol, Generic[Reply]):
    """Asks through a socket, many questions at once.

    Args:
        path: of the socket at which the process listens.
        reply: kind of what it answers.
        lost: makes the error of questions that no answer can come for.
    """

    def __init__(self, path: str, reply: type[Reply], lost: Callable[[], GenrecError]) -> None:
        self._path = path
        self._error = lost
        self._transport: asyncio.WriteTransport | None = None
        self._frames = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(reply)
        self._encoder = msgspec.msgpack.Encoder()
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._lost = asyncio.Event()

    @property
    def up(self) -> bool:
        """Whether it can be asked."""
        return self._transport is not None

    async def keep(self, changed: Callable[[], None]) -> None:
        """Connect, for ever; `changed` is called when it is up or down."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_unix_connection(lambda: self, self._path)
            except OSError:
                await asyncio.sleep(_TRY_S)
                continue
            changed()
            await self._lost.wait()
            changed()

    async def ask(
        self,
        question: Callable[[int], msgspec.Struct],
        *,
        dropped: Callable[[int], msgspec.Struct] | None = None,
    ) -> Reply:
        """Send a question, and wait for its reply.

        Args:
            question: made with its id.
            dropped: what is sent when nobody waits for the reply any more, with the same id.

        Raises:
            GenrecError: the process ended, or is not there.
        """
        if self._transport is None:
            raise self._error()
        number = next(self._ids)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        self._write(question(number))
        try:
            return await answer
        except asyncio.CancelledError:
            if self._pending.pop(number, None) is not None and dropped is not None:
                self._write(dropped(number))
            raise

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)
        self._frames = FrameReader()
        self._lost.clear()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        for message in self._frames.feed(data):
            reply: Any = self._decoder.decode(message)
            answer = self._pending.pop(reply.id, None)
            if answer is not None and not answer.done():
                answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Called by asyncio."""
        self._transport = None
        waiting, self._pending = self._pending, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(self._error())
        self._lost.set()

    def _write(self, message: msgspec.Struct) -> None:
        if self._transport is not None:
            # Length and message apart: a history is not copied to put four bytes before it.
            encoded = self._encoder.encode(message)
            self._transport.writelines((length_of(encoded), encoded))
