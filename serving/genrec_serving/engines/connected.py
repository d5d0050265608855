"""Engines of another process's children, asked through their doors from one event loop."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from genrec_model.errors import EngineError, EngineRestarting
from genrec_model.features.rows import UserRows
from genrec_serving.engines.affinity import engine_of
from genrec_serving.engines.frames import FrameReader, length_of
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine
from genrec_serving.engines.state import EngineState
from genrec_serving.engines.vllm_processes import all_statistics
from genrec_serving.engines.wire import Ask, Reply
from genrec_serving.vllm_plugin.pooling_request import rank_kwargs, recommend_kwargs
from genrec_serving.vllm_plugin.prompt import pack_bytes

logger = logging.getLogger(__name__)

#: Between two tries to reach an engine.
_TRY_S = 0.1
_RETRY_AFTER_S = 1.0


class ConnectedEngines(ScoringEngine):
    """The engines behind some doors; a user always meets the same one.

    They are started, watched and started again by somebody else, who says so by `tell`.

    Args:
        doors: paths of their sockets, in the order that all processes know.
    """

    name = "vllm"

    def __init__(self, doors: Sequence[str]) -> None:
        self._links = [_Link(door) for door in doors]
        self._state = EngineState()
        self._closed = False
        self._changed = asyncio.Event()
        self._tasks = [asyncio.create_task(link.keep(self._look)) for link in self._links]

    @property
    def healthy(self) -> bool:
        """Whether all of them can be asked."""
        return self._state.state == "running" and all(link.up for link in self._links)

    @property
    def given_up(self) -> bool:
        """As the base class says."""
        return self._state.state == "given up"

    def describe(self) -> dict[str, Any]:
        """As the base class says."""
        return msgspec.structs.asdict(self._state)

    def tell(self, state: EngineState) -> None:
        """Take what is said of the engines."""
        self._state = state
        self._look()

    async def wait_until_healthy(self) -> None:
        """Wait for the first start.

        Raises:
            EngineError: the engines were given up, or left.
        """
        while not self.healthy:
            if self.given_up or self._closed:
                raise self._why_not()
            self._changed.clear()
            await self._changed.wait()

    async def recommend(self, call: RecommendCall) -> Scored:
        """As the base class says."""
        kwargs = recommend_kwargs(k=call.k, now=call.now, exclude=call.exclude, allow=call.allow)
        return await self._score(call.rows, kwargs)

    async def rank(self, call: RankCall) -> Scored:
        """As the base class says."""
        return await self._score(call.rows, rank_kwargs(candidates=call.candidates, now=call.now))

    async def statistics(self) -> dict[str, Any]:
        """As the base class says, of each process."""
        if not self.healthy:
            return {}
        replies = await asyncio.gather(*(link.ask(b"", {}) for link in self._links))
        return all_statistics([reply.statistics or {} for reply in replies])

    def close(self) -> None:
        """Leave the engines, which live on."""
        self._closed = True
        self._look()
        for task in self._tasks:
            task.cancel()
        for link in self._links:
            link.close()

    async def _score(self, rows: UserRows, kwargs: dict[str, Any]) -> Scored:
        if not self.healthy:
            raise self._why_not()
        link = self._links[engine_of(rows, len(self._links))]
        return (await link.ask(pack_bytes(rows), kwargs)).scored()

    def _why_not(self) -> EngineError:
        if self._closed:
            return EngineError("engine vllm: it was closed")
        if self.given_up:
            return EngineError(f"engine vllm: it was given up ({self._state.cause})")
        return EngineRestarting("engine vllm is being started again", retry_after_s=_RETRY_AFTER_S)

    def _look(self) -> None:
        self._changed.set()


class _Link(asyncio.Protocol):
    """The way to one engine; found again when it was lost."""

    def __init__(self, door: str) -> None:
        self._door = door
        self._transport: asyncio.WriteTransport | None = None
        self._frames = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._encoder = msgspec.msgpack.Encoder()
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._lost = asyncio.Event()

    @property
    def up(self) -> bool:
        return self._transport is not None

    async def keep(self, changed: Callable[[], None]) -> None:
        """Connect, for ever; `changed` is called when it is up or down."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.create_unix_connection(lambda: self, self._door)
            except OSError:
                await asyncio.sleep(_TRY_S)
                continue
            changed()
            await self._lost.wait()
            changed()

    async def ask(self, prompt: bytes, kwargs: dict[str, Any]) -> Reply:
        """Send a request, and wait for its reply.

        Raises:
            EngineRestarting: the engine's process ended.
            EngineError: it failed.
        """
        if self._transport is None:
            raise _lost()
        request_id = next(self._ids)
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = answer
        self._write(Ask(request_id, prompt, kwargs))
        try:
            reply = await answer
        except asyncio.CancelledError:
            if self._pending.pop(request_id, None) is not None:
                self._write(Ask(request_id, dropped=True))
            raise
        if reply.error is not None:
            raise EngineError(reply.error)
        return reply

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
            reply = self._decoder.decode(message)
            answer = self._pending.pop(reply.id, None)
            if answer is not None and not answer.done():
                answer.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio's signature
        """Called by asyncio."""
        self._transport = None
        waiting, self._pending = self._pending, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(_lost())
        self._lost.set()

    def _write(self, ask: Ask) -> None:
        if self._transport is not None:
            # Length and message apart: a history is not copied to put four bytes before it.
            message = self._encoder.encode(ask)
            self._transport.writelines((length_of(message), message))


def _lost() -> EngineError:
    return EngineRestarting(
        "engine vllm: its process ended, and is started again", retry_after_s=_RETRY_AFTER_S
    )
