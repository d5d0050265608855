"""What a rollout does and what it demands: steps of traffic and service level objectives."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

from genrec_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SLO:
    """What the canary must reach at every step.

    Args:
        max_error_rate: largest share of failed requests, 0 to 1.
        max_p95_ms: largest 95th percentile of the latency, milliseconds. It and the ratio below
            count as exceeded when chance does not explain the number of slow answers.
        max_p95_ratio: largest ratio of the canary's p95 to the stable arm's, at the same step.
        min_p95_gap_ms: the ratio is judged only when the canary is slower by more than this
            many milliseconds; below it, a ratio of small latencies is noise.
        max_score_error: largest distance of a served score from its offline twin.
        max_score_drift: largest distance between the distributions of served and of offline
            scores: the Kolmogorov-Smirnov statistic, 0 to 1.
        min_requests: fewest requests of the canary that allow a judgement.
        require_scores: whether answers must have been compared with offline scores.

    Raises:
        ConfigError: a number is out of range.
    """

    max_error_rate: float = 0.01
    max_p95_ms: float = 1000.0
    max_p95_ratio: float = 2.0
    min_p95_gap_ms: float = 20.0
    max_score_error: float = 1e-3
    max_score_drift: float = 0.2
    min_requests: int = 20
    require_scores: bool = True

    def __post_init__(self) -> None:
        for name in ("max_error_rate", "max_score_drift"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"slo.{name} is {getattr(self, name)}; it must be in [0, 1]")
        for name in ("max_p95_ms", "max_p95_ratio"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"slo.{name} is {getattr(self, name)}; it must be above 0")
        for name in ("min_p95_gap_ms", "max_score_error"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"slo.{name} is {getattr(self, name)}; it must be at least 0")
        if self.min_requests < 1:
            raise ConfigError(f"slo.min_requests is {self.min_requests}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """Steps of a rollout.

    Args:
        steps: percent of the users that the canary serves, growing, the last one 100.
        requests_per_step: requests to see before a judgement, both arms together.
        max_extensions: how often a step is prolonged by another ``requests_per_step`` when the
            canary saw too few requests; after that the rollout ends.
        slo: what the canary must reach.

    Raises:
        ConfigError: a number is out of range, or the first step cannot show ``min_requests``
            requests to the canary.
    """

    steps: tuple[int, ...] = (5, 25, 50, 100)
    requests_per_step: int = 200
    max_extensions: int = 5
    slo: SLO = field(default_factory=SLO)

    def __post_init__(self) -> None:
        if not self.steps or self.steps[-1] != 100:
            raise ConfigError(f"rollout steps {self.steps}: the last step must be 100 %")
        growing = all(low < high for low, high in itertools.pairwise(self.steps))
        if self.steps[0] < 1 or not growing:
            raise ConfigError(f"rollout steps {self.steps}: write growing percents, 1 to 100")
        if self.requests_per_step < 1 or self.max_extensions < 0:
            raise ConfigError("rollout: requests_per_step must be at least 1, max_extensions 0")
        expected = self.requests_per_step * (1 + self.max_extensions) * self.steps[0] / 100
        if expected < self.slo.min_requests:
            raise ConfigError(
                f"rollout: the first step of {self.steps[0]} % shows the canary about "
                f"{expected:.0f} requests, extensions included, and slo.min_requests is "
                f"{self.slo.min_requests}: raise requests_per_step or lower min_requests"
            )

    def is_last(self, step: int) -> bool:
        """Whether `step`, an index, is the last one."""
        return step == len(self.steps) - 1

    def at_once(self) -> RolloutPlan:
        """The same demands with the single step 100 %: a first version has no stable twin."""
        return replace(self, steps=(100,))
