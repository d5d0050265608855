"""An engine that is started again when it dies or hangs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import Counter as Count

from genrec_model.errors import EngineError, EngineRestarting
from genrec_serving.engines.interface import (
    RankCall,
    RecommendCall,
    Scored,
    ScoringEngine,
    describe,
)
from genrec_serving.engines.probe import probe

logger = logging.getLogger(__name__)

#: No step takes that long, where requests have seconds.
HANG_S = 30.0
#: Between two looks at an engine that nobody asks anything else.
_LOOK_S = 0.5
#: Between the two looks that it takes: an engine that lives says so twice as often.
_SECOND_LOOK_S = 1.0
#: For the first answer of an engine, which may compile and capture.
_SECONDS_TO_PROVE = 900
#: Engines that may hang in this process before it is to be replaced.
_MOST_STUCK = 1
_RESTARTS = Count(
    "genrec_engine_restarts_total",
    "Times that a dead or hung engine was started again, by how that ended",
    ("engine", "outcome"),
)


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """When a dead engine is started.

    Args:
        first_s: seconds before the first try; each further one waits twice as long.
        longest_s: most seconds between tries.
        tries: after as many in a row the engine is given up.
    """

    first_s: float = 0.5
    longest_s: float = 30.0
    tries: int = 8

    def delay_s(self, failed: int) -> float:
        """Seconds to wait after so many failed tries."""
        return min(self.first_s * 2.0**failed, self.longest_s)


class SupervisedEngine(ScoringEngine):
    """The engine that `start` makes. While a dead one is replaced, all calls fail at once.

    Used from one event loop. Whoever looks at it, with a request or at `healthy`, sets the restart
    going; from the first request on, a task looks too.

    Args:
        start: makes an engine; takes seconds, and is called in a thread but for the first time.
        backoff: when a dead engine is started.
        hang_s: an engine that has answered before, and now has work and finishes none of it for so
            many seconds, is taken for dead; 0: never.
        sleep: waits for seconds.
        clock: seconds.

    Raises:
        EngineError: the first engine cannot start.
    """

    def __init__(
        self,
        start: Callable[[], ScoringEngine],
        *,
        backoff: Backoff | None = None,
        hang_s: float = HANG_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._backoff = backoff or Backoff()
        self._hang_s = hang_s
        self._sleep = sleep
        self._clock = clock
        self._engine = start()
        self.name = self._engine.name
        self._restart: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        #: Whether the engine has answered; before that it may compile for minutes.
        self._proven = False
        #: Engines that hang in this process, and keep what they hold.
        self._stuck = 0
        self._suspected_at: float | None = None
        self._restarts = 0
        self._retry_at = 0.0
        self._cause = ""
        self._closed = False
        self._given_up = False

    @property
    def healthy(self) -> bool:
        """Whether the engine runs; where it died, it is being started again after this."""
        if self._closed or self._given_up or self._restart is not None:
            return False
        if not self._engine.healthy:
            self._begin_restart("it died")
            return False
        if self._hangs():
            cause = f"engine {self.name} hangs: nothing was finished for {self._hang_s:g} s"
            self._engine.abandon(cause)
            self._begin_restart(cause)
            return False
        return True

    @property
    def given_up(self) -> bool:
        """Whether it is not started any more, so that the process should be."""
        return self._given_up

    def describe(self) -> dict[str, Any]:
        """For `/v1/stats`."""
        state: Literal["running", "restarting", "given up"] = "running"
        if not self.healthy:
            state = "given up" if self._given_up else "restarting"
        return {"state": state, "restarts": self._restarts, "cause": self._cause or None}

    async def recommend(self, call: RecommendCall) -> Scored:
        """As the base class says.

        Raises:
            EngineRestarting: it died, now or before.
            EngineError: it failed, and goes on.
        """
        return await self._ask(lambda engine: engine.recommend(call))

    async def rank(self, call: RankCall) -> Scored:
        """As the base class says; raises what `recommend` does."""
        return await self._ask(lambda engine: engine.rank(call))

    async def statistics(self) -> dict[str, Any]:
        """Of the engine; nothing while there is none that answers."""
        return await self._engine.statistics() if self.healthy else {}

    def close(self) -> None:
        """Close the engine; it is not started again."""
        self._closed = True
        for task in (self._restart, self._watcher):
            if task is not None:
                task.cancel()
        self._engine.close()

    async def _ask(self, question: Callable[[ScoringEngine], Awaitable[Scored]]) -> Scored:
        engine = self._running()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch())
        try:
            scored = await question(engine)
        except EngineError as error:
            raise self._failure(engine, error) from error
        self._proven = True
        return scored

    async def _watch(self) -> None:
        """Look, for those who wait for an answer and would not look again."""
        while not self._closed and not self._given_up:
            await asyncio.sleep(_LOOK_S)
            if not self.healthy and self._restart is not None:
                await asyncio.wait({self._restart})

    def _hangs(self) -> bool:
        """Whether it is so in two looks: where this process was stopped too, one is not enough."""
        if not self._proven or not 0 < self._hang_s <= self._engine.stalled_s:
            self._suspected_at = None
            return False
        now = self._clock()
        if self._suspected_at is None:
            self._suspected_at = now
        return now - self._suspected_at >= _SECOND_LOOK_S

    def _running(self) -> ScoringEngine:
        if not self.healthy:
            raise self._restarting()
        return self._engine

    def _failure(self, engine: ScoringEngine, error: EngineError) -> EngineError:
        if engine.healthy:
            return error
        if engine is self._engine and self._restart is None and not self._closed:
            self._begin_restart(str(error))
        return self._restarting()

    def _restarting(self) -> EngineError:
        if self._closed:
            return EngineError(f"engine {self.name}: it was closed")
        if self._given_up:
            return EngineError(f"engine {self.name}: it was given up ({self._cause})")
        return EngineRestarting(
            f"engine {self.name} is being started again ({self._cause})",
            retry_after_s=max(self._retry_at - self._clock(), self._backoff.first_s),
        )

    def _begin_restart(self, cause: str) -> None:
        self._cause = cause
        self._proven = False
        self._suspected_at = None
        logger.error("engine %s is started again: %s", self.name, cause)
        self._restart = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        """Try until an engine answers a request, or often enough."""
        if not await self._end_old():
            self._restart = None
            return
        for failed in range(self._backoff.tries):
            delay_s = self._backoff.delay_s(failed)
            self._retry_at = self._clock() + delay_s
            await self._sleep(delay_s)
            try:
                engine = await self._start_one()
            except Exception as error:
                # Whatever it is, the next try may go better.
                self._cause = describe(error)
                logger.error("engine %s, try %d: %s", self.name, failed + 1, error)  # noqa: TRY400
                _RESTARTS.labels(self.name, "failed").inc()
                continue
            if self._closed:
                engine.close()
                return
            self._engine = engine
            self._restarts += 1
            self._restart = None
            self._proven = True
            _RESTARTS.labels(self.name, "done").inc()
            logger.info("engine %s runs again", self.name)
            return
        self._give_up(f"after {self._backoff.tries} tries")
        self._restart = None

    async def _start_one(self) -> ScoringEngine:
        """An engine that has answered."""
        engine = await asyncio.to_thread(self._start)
        try:
            async with asyncio.timeout(_SECONDS_TO_PROVE):
                await probe(engine, now=int(time.time()))
        except BaseException:
            engine.abandon(f"engine {self.name}: it is of no use")
            await asyncio.to_thread(engine.close)
            raise
        return engine

    async def _end_old(self) -> bool:
        """End the engine that is replaced; False where it must not be replaced."""
        try:
            await asyncio.to_thread(self._engine.close)
        except EngineError as error:
            # In this process, where only its end gives the memory back.
            logger.error("engine %s: %s", self.name, error)  # noqa: TRY400
            self._stuck += 1
        except Exception:
            logger.exception("engine %s could not be closed", self.name)
        if self._stuck > _MOST_STUCK:
            self._give_up(f"as {self._stuck} hang in this process")
        return not self._given_up

    def _give_up(self, why: str) -> None:
        self._given_up = True
        logger.error("engine %s is given up %s", self.name, why)
