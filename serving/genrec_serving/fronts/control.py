"""What the supervisor and its children say to each other: those that take requests, and the store.

Messages are msgpack, framed as `sockets.frames` says, on a socket pair for each process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec

from genrec_serving.engines.state import EngineState
from genrec_serving.server_options import ServerOptions
from genrec_serving.sockets.frames import FrameReader, frame


class Begin(msgspec.Struct, frozen=True, tag=True):
    """The first message to a process.

    number: of the process, from 0; the first one has the gRPC port.
    options: fields of `ServerOptions`.
    doors: paths of the engines' sockets.
    store: path of the socket of the process that has the users' events; None where they are kept
        elsewhere.
    """

    number: int
    options: dict[str, Any]
    doors: list[str]
    store: str | None = None


class BeginStore(msgspec.Struct, frozen=True, tag=True):
    """The first message to the process that has the users' events.

    options: fields of `ServerOptions`.
    max_history: events that the model sees.
    path: of the socket at which it is asked.
    """

    options: dict[str, Any]
    max_history: int
    path: str


class Engines(msgspec.Struct, frozen=True, tag=True):
    """To a process: how the engines do now."""

    state: EngineState


class Drain(msgspec.Struct, frozen=True, tag=True):
    """To a process: be found unready."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a process: answer what is in flight, and end."""


class Collect(msgspec.Struct, frozen=True, tag=True):
    """To a process: say what you count, with a `Counted` of the same id."""

    id: int


class All(msgspec.Struct, frozen=True, tag=True):
    """To a process: what all processes count, `Numbers` in msgpack; it answers `Gather`."""

    id: int
    parts: list[bytes]


class Counted(msgspec.Struct, frozen=True, tag=True):
    """From a process: `Numbers` in msgpack."""

    id: int
    numbers: bytes


class Gather(msgspec.Struct, frozen=True, tag=True):
    """From a process: what do all count?"""

    id: int


class Beat(msgspec.Struct, frozen=True, tag=True):
    """From a process that serves connections, again and again.

    open: connections that it has.
    adopted: connections that it was given until now.
    loaded: whether it has its model.
    """

    open: int
    adopted: int
    loaded: bool


class StoreUp(msgspec.Struct, frozen=True, tag=True):
    """From the process that has the users' events, again and again: it can be asked."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From a process: it cannot start.

    message: why, in one line.
    by_user: whether what it was told is wrong.
    """

    message: str
    by_user: bool


ToFront = Begin | Engines | Drain | Stop | Collect | All
FromFront = Counted | Gather | Beat | Failed
FromStore = StoreUp | Failed

BEAT_S = 0.25

_encoder = msgspec.msgpack.Encoder()


class Channel(asyncio.Protocol):
    """One end of the socket pair.

    Args:
        kind: of the messages that come.
        take: called with each.
        lost: called when the other end is gone.
    """

    def __init__(self, kind: Any, take: Callable[[Any], None], lost: Callable[[], None]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._take = take
        self._lost = lost
        self._frames = FrameReader()
        self._transport: asyncio.WriteTransport | None = None

    def send(self, message: msgspec.Struct) -> None:
        """Send without waiting; nothing happens where the other end is gone."""
        if self._transport is not None:
            self._transport.write(encode(message))

    def close(self) -> None:
        """Hang up, after what was sent is gone."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        for message in self._frames.feed(data):
            self._take(self._decoder.decode(message))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Called by asyncio."""
        self._transport = None
        self._lost()


def encode(message: msgspec.Struct) -> bytes:
    """A message as the socket has it."""
    return frame(_encoder.encode(message))


def options_to_dict(options: ServerOptions) -> dict[str, Any]:
    """Options for `Begin`."""
    found: dict[str, Any] = msgspec.to_builtins(options, enc_hook=str)
    return found


def options_from_dict(found: dict[str, Any]) -> ServerOptions:
    """The reverse."""
    return msgspec.convert(found, ServerOptions, dec_hook=lambda kind, value: kind(value))
