"""Who may in: a bounded queue in front of the engine, a deadline for each request.

A server that takes everything answers nothing in time. So a request waits only where it can be
expected to be answered in time, and is refused at once where it cannot: with 429, which tells its
client to slow down. One whose deadline passes all the same is given up with 503.

An engine that is asked about more users at once answers more of them, up to a point, after which
each only takes longer. That point is found while serving: there are fewer places while the engine
takes longer than it should, and more again while it does not and somebody waits. Who is refused,
where some have to be, `shedding` says.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client import Counter as Count

from genrec_model.errors import ConfigError, Overloaded
from genrec_serving.surfaces.request_context import CONTEXT
from genrec_serving.surfaces.shedding import Shedding

#: Why a request was not answered.
Refusal = Literal["queue_full", "too_slow", "not_your_turn", "expired", "cancelled"]
#: Weight of a new request in the mean of how long one holds its places.
_WEIGHT = 0.05
#: Places that remain however long the engine takes: with fewer, it answers fewer users a second,
#: and what takes long may be something else, which fewer places do not mend.
_FEWEST = 8
#: Share of the places up to which anybody is let in, whose turn it is or not.
_QUIET = 0.25
#: Told to those whose turn is later: until then there may be room for everybody again.
_LONGEST_RETRY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """How much the server takes. A request counts as many times as it has users.

    Args:
        running: most users whom the engine is asked about at once.
        waiting: most users whose requests wait.
        wait_s: a request is refused where it would have to wait longer.
        hold_s: what the engine should take for a request; while it takes longer, there are fewer
            places than `running`.
        deadline_s: for requests that do not say how long they wait.

    Raises:
        ConfigError: a limit makes no sense.
    """

    running: int = 64
    waiting: int = 512
    wait_s: float = 1.0
    hold_s: float = 0.5
    deadline_s: float = 10.0

    def __post_init__(self) -> None:
        times = (self.wait_s, self.hold_s, self.deadline_s)
        if self.running < 1 or self.waiting < 0 or min(times) <= 0:
            raise ConfigError(
                f"admission: {self} makes no sense: give at least 1 running, and times above 0"
            )


@dataclass(eq=False)
class _Ticket:
    """One who waits; the future is done when there is a place for them."""

    users: int
    place: asyncio.Future[None]


class Admission:
    """Places in front of the engine, first come, first served. Used from one event loop.

    Args:
        limits: how much the server takes.
        clock: seconds.
        registry: where Prometheus finds the numbers.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        *,
        clock: Callable[[], float] = time.perf_counter,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._queue: deque[_Ticket] = deque()
        self._shedding = Shedding(clock)
        self._running = self._waiting = 0
        self._places = float(limits.running)
        self._hold_s: float | None = None
        self._refused: Counter[str] = Counter()
        self._counts = Count(
            "genrec_requests_refused_total",
            "Requests that were not answered for want of capacity, time or a client",
            ("reason",),
            registry=registry,
        )
        for name, text, value in (
            ("genrec_queue_users", "Users whose requests wait", lambda: self._waiting),
            ("genrec_running_users", "Users whom the engine is asked about", lambda: self._running),
            ("genrec_places", "Users whom the engine may be asked about", lambda: self._places),
            ("genrec_share", "Share of the users who may ask", lambda: self._shedding.share),
        ):
            Gauge(name, text, registry=registry).set_function(value)

    @property
    def running(self) -> int:
        """Users whom the engine is asked about now."""
        return self._running

    @property
    def places(self) -> int:
        """Most users whom the engine is asked about at once now."""
        return int(self._places)

    @property
    def waiting(self) -> int:
        """Users whose requests wait."""
        return self._waiting

    @asynccontextmanager
    async def place(self, users: int = 1, *, who: bytes | None = None) -> AsyncIterator[float]:
        """A place for the block, for the seconds that the request's deadline leaves.

        Gives the seconds that the request waited.

        Args:
            users: of the request; one with more than all places gets in when it is alone.
            who: what its user is known by; None where that is nothing, or several.

        Raises:
            Overloaded: there is no place, or the deadline passed, also inside the block.
        """
        limit = self._limit_s()
        came = self._clock()
        async with self.in_time():
            await self._enter(users, limit, who)
            entered = self._clock()
            try:
                yield entered - came
                self._learn(self._clock() - entered)
            finally:
                self._leave(users)

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """The block for as long as the request's deadline says, without a place.

        Raises:
            Overloaded: the deadline passed.
        """
        limit = self._limit_s()
        try:
            async with asyncio.timeout(limit):
                yield
        except TimeoutError as error:
            self._count("expired")
            raise Overloaded(
                f"it could not be answered within {limit:g} s",
                status=503,
                retry_after_s=self._expected_wait(self._waiting),
            ) from error
        except asyncio.CancelledError:
            self._count("cancelled")
            raise

    def snapshot(self) -> dict[str, Any]:
        """For `/v1/stats`."""
        return {
            "limits": vars(self._limits),
            "places": self.places,
            "share": round(self._shedding.share, 4),
            "running": self._running,
            "waiting": self._waiting,
            "mean_ms": None if self._hold_s is None else round(self._hold_s * 1e3, 3),
            "refused": dict(self._refused),
        }

    async def _enter(self, users: int, limit_s: float, who: bytes | None) -> None:
        turn_in_s = self._shedding.turn_in_s(who)
        if turn_in_s and (self._queue or self._running + users > self._places * _QUIET):
            self._count("not_your_turn")
            raise Overloaded(
                "there are too many requests: others have their turn first",
                status=429,
                retry_after_s=min(turn_in_s, _LONGEST_RETRY_S),
            )
        if not self._queue and self._fits(users):
            self._running += users
            self._shedding.passed(0.0)
            return
        full = self._waiting + users > self._limits.waiting
        # A large batch may wait where nobody else does: it would never get in otherwise.
        if full and (self._queue or not self._limits.waiting):
            self._refuse("queue_full", f"{self._waiting} users wait already")
        wait_s = self._expected_wait(self._waiting + users)
        if wait_s > min(self._limits.wait_s, limit_s):
            self._refuse("too_slow", f"it would wait about {wait_s:.1f} s")
        self._shedding.passed(wait_s / self._limits.wait_s)
        ticket = _Ticket(users, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._waiting += users
        try:
            await ticket.place
        except asyncio.CancelledError:
            if ticket.place.done() and not ticket.place.cancelled():
                # The place came in the same moment.
                self._leave(users)
            elif ticket in self._queue:
                self._queue.remove(ticket)
                self._waiting -= users
                self._call_next()  # those behind it may be smaller
            raise

    def _limit_s(self) -> float:
        """Seconds that the running request may take."""
        context = CONTEXT.get()
        if context is None or context.timeout_s is None:
            return self._limits.deadline_s
        return context.timeout_s

    def _fits(self, users: int) -> bool:
        return self._running == 0 or self._running + users <= self.places

    def _leave(self, users: int) -> None:
        self._running -= users
        self._call_next()

    def _call_next(self) -> None:
        while self._queue and self._fits(self._queue[0].users):
            ticket = self._queue.popleft()
            self._waiting -= ticket.users
            if not ticket.place.cancelled():
                self._running += ticket.users
                ticket.place.set_result(None)

    def _learn(self, seconds: float) -> None:
        """A request held its places for that long.

        As many requests as there are places take a tenth of these away, or add one.
        """
        if seconds > self._limits.hold_s:
            self._places = max(self._places - 0.1, min(_FEWEST, self._limits.running))
        elif self._queue:
            self._places = min(self._places + 1 / self._places, self._limits.running)
        if self._hold_s is None:
            self._hold_s = seconds
        self._hold_s += _WEIGHT * (seconds - self._hold_s)

    def _expected_wait(self, users: int) -> float:
        """Seconds until as many users had their turn; 0 before the first was answered."""
        return (self._hold_s or 0.0) * users / self.places

    def _refuse(self, reason: Refusal, why: str) -> None:
        self._shedding.turned_away()
        self._count(reason)
        raise Overloaded(
            f"there are too many requests: {why}",
            status=429,
            retry_after_s=self._expected_wait(self._waiting),
        )

    def _count(self, reason: Refusal) -> None:
        self._refused[reason] += 1
        self._counts.labels(reason).inc()
