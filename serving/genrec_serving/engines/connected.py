"""Engines of another process's children, asked through their doors from one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from genrec_model.errors import EngineError, EngineRestarting
from genrec_model.features.rows import UserRows
from genrec_serving.engines.affinity import engine_of
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine
from genrec_serving.engines.state import EngineState
from genrec_serving.engines.vllm_processes import all_statistics
from genrec_serving.engines.wire import Ask, Reply
from genrec_serving.sockets.link import Link
from genrec_serving.vllm_plugin.pooling_request import rank_kwargs, recommend_kwargs
from genrec_serving.vllm_plugin.prompt import pack_bytes

_RETRY_AFTER_S = 1.0


class ConnectedEngines(ScoringEngine):
    """The engines behind some doors; a user always meets the same one.

    They are started, watched and started again by somebody else, who says so by `tell`.

    Args:
        doors: paths of their sockets, in the order that all processes know.
    """

    name = "vllm"

    def __init__(self, doors: Sequence[str]) -> None:
        self._links = [Link(door, Reply, _lost) for door in doors]
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
        replies = await asyncio.gather(*(_ask(link, b"", {}) for link in self._links))
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
        return (await _ask(link, pack_bytes(rows), kwargs)).scored()

    def _why_not(self) -> EngineError:
        if self._closed:
            return EngineError("engine vllm: it was closed")
        if self.given_up:
            return EngineError(f"engine vllm: it was given up ({self._state.cause})")
        return EngineRestarting("engine vllm is being started again", retry_after_s=_RETRY_AFTER_S)

    def _look(self) -> None:
        self._changed.set()


async def _ask(link: Link[Reply], prompt: bytes, kwargs: dict[str, Any]) -> Reply:
    reply = await link.ask(
        partial(Ask, prompt=prompt, kwargs=kwargs), dropped=partial(Ask, dropped=True)
    )
    if reply.error is not None:
        raise EngineError(reply.error)
    return reply


def _lost() -> EngineError:
    return EngineRestarting(
        "engine vllm: its process ended, and is started again", retry_after_s=_RETRY_AFTER_S
    )
