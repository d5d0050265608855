"""What was seen of one arm at one step. Pure: no clock, no network."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one request.

    Args:
        arm: ``stable`` or ``canary``.
        latency_ms: until the whole answer was here.
        failure: why the request failed; None for a good answer.
        score_error: largest distance of a served score from its offline twin; None where the
            offline scores are unknown.
        served: task probabilities of the answer.
        offline: task probabilities that plain PyTorch gave for the same request.
    """

    arm: str
    latency_ms: float
    failure: str | None = None
    score_error: float | None = None
    served: tuple[float, ...] = ()
    offline: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What was seen of one arm at one step.

    Args:
        requests: all of them.
        errors: those that failed.
        latencies_ms: of the others.
        score_errors: one for each request whose offline scores are known.
        served, offline: task probabilities of those requests.
        first_failure: why the first failed request failed.
    """

    requests: int = 0
    errors: int = 0
    latencies_ms: tuple[float, ...] = ()
    score_errors: tuple[float, ...] = ()
    served: tuple[float, ...] = ()
    offline: tuple[float, ...] = ()
    first_failure: str | None = None

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Observation:
        """Sum up outcomes of one arm."""
        seen = list(outcomes)
        good = [outcome for outcome in seen if outcome.failure is None]
        failures = [outcome.failure for outcome in seen if outcome.failure is not None]
        known = [outcome for outcome in good if outcome.score_error is not None]
        return cls(
            requests=len(seen),
            errors=len(failures),
            latencies_ms=tuple(outcome.latency_ms for outcome in good),
            score_errors=tuple(o.score_error for o in known if o.score_error is not None),
            served=tuple(score for outcome in known for score in outcome.served),
            offline=tuple(score for outcome in known for score in outcome.offline),
            first_failure=failures[0] if failures else None,
        )

    def __add__(self, other: Observation) -> Observation:
        return Observation(
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            latencies_ms=self.latencies_ms + other.latencies_ms,
            score_errors=self.score_errors + other.score_errors,
            served=self.served + other.served,
            offline=self.offline + other.offline,
            first_failure=self.first_failure or other.first_failure,
        )

    @property
    def error_rate(self) -> float:
        """Share of failed requests; 0 where there were none."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def p50_ms(self) -> float | None:
        """Median latency of the good answers, milliseconds."""
        return percentile(self.latencies_ms, 50)

    @property
    def p95_ms(self) -> float | None:
        """95th percentile of the latency of the good answers, milliseconds."""
        return percentile(self.latencies_ms, 95)

    @property
    def max_score_error(self) -> float | None:
        """Largest distance of a served score from its offline twin; None if none is known."""
        return max(self.score_errors, default=None)

    @property
    def score_drift(self) -> float | None:
        """Kolmogorov-Smirnov statistic between served and offline scores; None if none is known."""
        if not self.served or not self.offline:
            return None
        return ks_statistic(self.served, self.offline)

    def figures(self) -> dict[str, Any]:
        """The figures alone, as JSON holds them."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "p50_ms": _rounded(self.p50_ms),
            "p95_ms": _rounded(self.p95_ms),
            "compared": len(self.score_errors),
            "max_score_error": self.max_score_error,
            "score_drift": self.score_drift,
            "first_failure": self.first_failure,
        }


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Percentile by nearest rank: a value that occurred; None of nothing."""
    if not values:
        return None
    rank = max(math.ceil(percent / 100 * len(values)), 1)
    return sorted(values)[rank - 1]


def ks_statistic(left: Sequence[float], right: Sequence[float]) -> float:
    """Largest gap between two empirical distributions, 0 to 1."""
    first, second = sorted(left), sorted(right)
    return max(
        abs(
            bisect.bisect_right(first, value) / len(first)
            - bisect.bisect_right(second, value) / len(second)
        )
        for value in {*first, *second}
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
