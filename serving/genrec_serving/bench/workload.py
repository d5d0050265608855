"""Who asks what and when: made from a seed, before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from genrec_model.errors import ConfigError

#: Seconds between two events of a user: a busy one must not get into the future.
STEP_S = 1
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LoadPlan:
    """One run of load.

    Args:
        url: of the server.
        token: where the server wants one.
        rate: visits a second, which arrive whether or not others are answered (Poisson); or
        concurrency: visitors who come again as soon as they are answered, or as they are told to
            where they are refused.
        seconds: how long.
        users: who visit, more often the lower their number.
        zipf: exponent of that; 0 for all alike.
        own_users: whether each visitor has users of their own, so that nobody makes two visits at
            once; of a concurrency.
        history_events: that each user has before the first visit.
        history_spread: most events that a user has beyond these; all numbers alike. With none
            the models' windows of all users move at once, as those of real users never do.
        new_events: that a user brings to each visit.
        one_request: whether a visit is one request, which brings the new events with it.
        candidates: to rank; 0 to ask for recommendations.
        k: items of a recommendation.
        state: whether the server keeps the histories, or each request carries its own.
        strategy: that every request forces; the server's default where None.
        warm: whether every user visits once before the run.
        processes: that make the load; each has its share of users and rate.
        seed: of all that is random.
        timeout_s: for one answer.

    Raises:
        ConfigError: a value makes no sense.
    """

    url: str
    token: str | None = None
    rate: float | None = None
    concurrency: int | None = None
    seconds: float = 20.0
    users: int = 200
    zipf: float = 1.0
    own_users: bool = False
    history_events: int = 200
    history_spread: int = 0
    new_events: int = 8
    one_request: bool = False
    candidates: int = 0
    k: int = 10
    state: Literal["server", "request"] = "server"
    strategy: str | None = None
    warm: bool = True
    processes: int = 1
    seed: int = 0
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise ConfigError("load: give a rate, or a concurrency")
        parts = (self.users, self.concurrency or self.processes)
        if not 1 <= self.processes <= min(parts):
            raise ConfigError(
                f"load: {self.processes} processes need as many users and visitors; there are "
                f"{self.users} and {parts[1]}"
            )
        if self.one_request and self.state != "server":
            raise ConfigError("load: one request a visit needs histories kept by the server")
        if self.own_users and (self.concurrency is None or self.concurrency > self.users):
            raise ConfigError(
                "load: for visitors with users of their own give a concurrency, and as many users"
            )
        positive = (1 if self.rate is None else self.rate, self.seconds, self.k, self.timeout_s)
        counts = (
            self.zipf,
            self.history_events,
            self.history_spread,
            self.new_events,
            self.candidates,
        )
        if min(positive) <= 0 or min(counts) < 0:
            raise ConfigError("load: rate, seconds, k and timeout are above 0, counts not below")

    def share(self, process: int) -> tuple[range, float | None, int | None]:
        """Users, rate and concurrency of one process."""
        users = range(process, self.users, self.processes)
        if self.rate is not None:
            return users, self.rate / self.processes, None
        assert self.concurrency is not None
        return users, None, len(range(process, self.concurrency, self.processes))


def arrivals(rng: np.random.Generator, *, rate: float, seconds: float) -> Floats:
    """Times of a Poisson process, ascending, float64 [n], in [0, seconds)."""
    expected = rate * seconds
    gaps = rng.exponential(1 / rate, int(expected + 10 * np.sqrt(expected) + 10))
    times = np.cumsum(gaps)
    return times[times < seconds]


def popularity(users: int, zipf: float) -> Floats:
    """Share of the visits of each user, float64 [users], the most frequent first."""
    weights: Floats = np.arange(1, users + 1, dtype=np.float64) ** -zipf
    shares: Floats = weights / weights.sum()
    return shares


class SyntheticUser:
    """A user with a growing history of random items.

    Args:
        name: their id.
        rng: where the events come from.
        items: ids of the catalogue.
        actions: of the data set.
        start: unix seconds of the first event.
    """

    def __init__(
        self,
        name: str,
        rng: np.random.Generator,
        *,
        items: list[Any],
        actions: list[str],
        start: int,
    ) -> None:
        self.name = name
        self._rng = rng
        self._items = items
        self._actions = actions
        self._time = start
        self.events: list[dict[str, Any]] = []

    @property
    def now(self) -> int:
        """When the user would be shown something."""
        return self._time + STEP_S

    def act(self, count: int) -> list[dict[str, Any]]:
        """That many more events, as a history has them."""
        items = self._rng.integers(len(self._items), size=count)
        actions = self._rng.integers(len(self._actions), size=count)
        made = []
        for item, action in zip(items.tolist(), actions.tolist(), strict=True):
            self._time += STEP_S
            made.append(
                {
                    "item_id": self._items[item],
                    "action": self._actions[action],
                    "timestamp": self._time,
                }
            )
        self.events += made
        return made

    def with_ids(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The events as an append has them."""
        return [{**event, "event_id": f"{self.name}-{event['timestamp']}"} for event in events]
