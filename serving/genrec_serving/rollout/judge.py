"""Judging a step. Pure: what was seen goes in, a verdict with its reasons comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from genrec_serving.rollout.observation import Observation
from genrec_serving.rollout.plan import SLO, RolloutPlan

#: A good canary is called too slow this often, at most, at one judgement.
SIGNIFICANCE = 0.01

Decision = Literal["advance", "promote", "rollback", "extend"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What to do next, and why: sentences with figures."""

    decision: Decision
    reasons: tuple[str, ...]


def judge(
    plan: RolloutPlan,
    *,
    step: int,
    canary: Observation,
    stable: Observation | None,
    extensions: int = 0,
) -> Verdict:
    """Judge one step.

    What can no longer become good ends the rollout at once. What cannot be judged yet prolongs
    the step, at most ``plan.max_extensions`` times.

    Args:
        step: index in ``plan.steps``.
        canary: everything that was seen of the canary at this step, extensions included.
        stable: the same of the stable arm; None when there is no champion.
        extensions: how often this step was prolonged already.
    """
    slo = plan.slo
    enough = canary.requests >= slo.min_requests
    against = _against(slo, canary, stable, enough=enough)
    if against:
        return Verdict(decision="rollback", reasons=tuple(against))
    if not enough:
        seen = f"the canary saw {canary.requests} requests, {slo.min_requests} are needed"
        if extensions < plan.max_extensions:
            return Verdict(decision="extend", reasons=(seen,))
        reason = f"{seen}, and the step was prolonged {extensions} times already"
        return Verdict(decision="rollback", reasons=(reason,))
    decision: Decision = "promote" if plan.is_last(step) else "advance"
    return Verdict(decision=decision, reasons=tuple(_in_favour(slo, canary)))


def _against(
    slo: SLO, canary: Observation, stable: Observation | None, *, enough: bool
) -> list[str]:
    reasons = []
    # Below min_requests, so many failures that further good answers could not mend it.
    if canary.errors > slo.max_error_rate * max(canary.requests, slo.min_requests):
        reasons.append(
            f"{canary.errors} of {canary.requests} requests failed ({canary.error_rate:.1%}), "
            f"{slo.max_error_rate:.1%} is allowed; the first: {canary.first_failure}"
        )
    worst = canary.max_score_error
    if worst is not None and not worst <= slo.max_score_error:
        reasons.append(
            f"a served score is {worst:.3g} away from its offline twin, "
            f"{slo.max_score_error:.3g} is allowed"
        )
    if stable is not None and stable.requests and stable.errors == stable.requests:
        reasons.append(
            f"the stable arm answered none of its {stable.requests} requests, so there is "
            f"nothing to compare with; the first: {stable.first_failure}"
        )
    if enough:
        reasons += _too_slow(slo, canary, stable)
        if slo.require_scores and not canary.score_errors:
            reasons.append("no answer could be compared with offline scores")
        drift = canary.score_drift
        if drift is not None and drift > slo.max_score_drift:
            reasons.append(
                f"the distribution of served scores is {drift:.3f} away from the offline one "
                f"(Kolmogorov-Smirnov), {slo.max_score_drift:.3f} is allowed"
            )
    return reasons


def _too_slow(slo: SLO, canary: Observation, stable: Observation | None) -> list[str]:
    own = canary.p95_ms
    if own is None:
        return []
    reasons = []
    if _p95_exceeds(slo.max_p95_ms, canary.latencies_ms):
        reasons.append(f"p95 is {own:.1f} ms, {slo.max_p95_ms:.1f} ms is allowed")
    other = stable.p95_ms if stable is not None else None
    if other is not None:
        limit = max(other * slo.max_p95_ratio, other + slo.min_p95_gap_ms)
        if _p95_exceeds(limit, canary.latencies_ms):
            reasons.append(
                f"p95 is {own:.1f} ms and the stable arm's {other:.1f} ms; "
                f"{limit:.1f} ms is allowed beside it"
            )
    return reasons


def _p95_exceeds(limit_ms: float, latencies_ms: Sequence[float]) -> bool:
    """Whether more than 5 % of all answers take longer than the limit, beyond chance.

    The p95 of twenty latencies is their maximum or the one below: a single pause of the machine
    would decide. So slow answers are counted, and must be more than luck explains.
    """
    slow = sum(latency > limit_ms for latency in latencies_ms)
    return slow > 0 and binomial_tail(slow, len(latencies_ms), 0.05) < SIGNIFICANCE


def binomial_tail(least: int, trials: int, probability: float) -> float:
    """Chance of at least so many successes; `probability` is between 0 and 1."""
    yes, no = math.log(probability), math.log1p(-probability)
    total = 0.0
    for k in range(least, trials + 1):
        ways = math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        total += math.exp(ways + k * yes + (trials - k) * no)
    return min(total, 1.0)


def _in_favour(slo: SLO, canary: Observation) -> list[str]:
    reasons = [
        f"{canary.errors} of {canary.requests} requests failed, {slo.max_error_rate:.1%} is allowed"
    ]
    if canary.p95_ms is not None:
        reasons.append(f"p95 is {canary.p95_ms:.1f} ms, {slo.max_p95_ms:.1f} ms is allowed")
    if canary.max_score_error is not None:
        reasons.append(
            f"served scores are within {canary.max_score_error:.2g} of the offline ones "
            f"({len(canary.score_errors)} answers compared)"
        )
    else:
        reasons.append("no answer could be compared with offline scores")
    return reasons
