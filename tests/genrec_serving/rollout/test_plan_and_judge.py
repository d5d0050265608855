from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_model.errors import ConfigError
from genrec_serving.rollout.judge import binomial_tail, judge
from genrec_serving.rollout.observation import Observation, Outcome, ks_statistic, percentile
from genrec_serving.rollout.plan import SLO, RolloutPlan

PLAN = RolloutPlan(steps=(5, 50, 100), slo=SLO(min_requests=10))


def seen(requests: int = 100, errors: int = 0, ms: float = 10.0, **more: Any) -> Observation:
    return Observation(
        requests=requests,
        errors=errors,
        latencies_ms=(ms,) * (requests - errors),
        first_failure="HTTP 500" if errors else None,
        **{"score_errors": (0.0,) * (requests - errors), **more},
    )


@pytest.mark.parametrize(
    "options",
    [
        {"max_error_rate": 1.1},
        {"max_error_rate": math.nan},
        {"max_p95_ms": 0},
        {"max_p95_ratio": math.inf},
        {"max_score_error": -1},
        {"max_score_error": math.nan},
        {"min_requests": 0},
    ],
)
def test_slo_refuses(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        SLO(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": ()}, "last step must be 100"),
        ({"steps": (5, 50)}, "last step must be 100"),
        ({"steps": (50, 50, 100)}, "growing"),
        ({"steps": (50, 5, 100)}, "growing"),
        ({"steps": (0, 100)}, "growing"),
        ({"requests_per_step": 0}, "requests_per_step"),
        ({"requests_per_step": 10, "max_extensions": 1}, "about 1 requests"),
    ],
)
def test_plan_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RolloutPlan(**options)


@pytest.mark.parametrize(
    ("step", "canary", "stable", "extensions", "decision", "reason"),
    [
        (0, seen(), seen(), 0, "advance", "0 of 100 requests failed"),
        (2, seen(), seen(0), 0, "promote", "p95 is 10.0 ms"),
        (2, seen(), None, 0, "promote", "p95 is 10.0 ms"),
        (0, seen(5), seen(), 0, "extend", "saw 5 requests, 10 are needed"),
        (0, seen(5), seen(), 5, "rollback", "prolonged 5 times already"),
        (0, seen(0), seen(), 0, "extend", "saw 0 requests"),
        (0, seen(100, 2), seen(), 0, "rollback", r"2 of 100 requests failed \(2.0%\)"),
        (0, seen(100, 1), seen(), 0, "advance", "1 of 100"),
        (0, seen(2, 2), seen(), 0, "rollback", "the first: HTTP 500"),
        (0, seen(ms=1001.0), seen(ms=1000.0), 0, "rollback", "p95 is 1001.0 ms, 1000.0 ms is"),
        (0, seen(ms=100.0), seen(ms=40.0), 0, "rollback", "the stable arm's 40.0 ms"),
        (0, seen(ms=25.0), seen(ms=10.0), 0, "advance", "within 0 of"),
        (0, seen(ms=100.0), seen(100, 100), 0, "rollback", "answered none of its 100"),
        (0, seen(score_errors=(0.0, 0.002)), seen(), 0, "rollback", "0.002 away"),
        (0, seen(score_errors=(math.nan,)), seen(), 0, "rollback", "nan away"),
        (0, seen(3, score_errors=(0.5,)), seen(), 0, "rollback", "0.5 away"),
        (0, seen(score_errors=()), seen(), 0, "rollback", "no answer could be compared"),
        (0, seen(score_errors=(1e-4,)), seen(), 0, "advance", "within 0.0001"),
        (0, seen(served=(0.9,) * 9, offline=(0.1,) * 9), None, 0, "rollback", "Kolmogorov"),
    ],
)
def test_verdicts(
    step: int,
    canary: Observation,
    stable: Observation | None,
    extensions: int,
    decision: str,
    reason: str,
) -> None:
    verdict = judge(PLAN, step=step, canary=canary, stable=stable, extensions=extensions)
    assert verdict.decision == decision
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError("; ".join(verdict.reasons))


def test_a_single_pause_of_the_machine_does_not_decide() -> None:
    canary = Observation(
        requests=20,
        latencies_ms=(10.0,) * 19 + (5000.0,),
        score_errors=(0.0,) * 20,
    )
    assert canary.p95_ms == 10.0
    for slow, decision in ((1, "advance"), (3, "advance"), (6, "rollback"), (20, "rollback")):
        latencies = (10.0,) * (20 - slow) + (5000.0,) * slow
        shown = replace(canary, latencies_ms=latencies)
        assert judge(PLAN, step=0, canary=shown, stable=seen()).decision == decision


@given(st.integers(0, 40), st.floats(0.01, 0.99))
def test_binomial_tail(trials: int, probability: float) -> None:
    tails = [binomial_tail(least, trials, probability) for least in range(trials + 2)]
    assert tails[0] == pytest.approx(1)
    assert tails[-1] == 0
    assert tails[trials] == pytest.approx(probability**trials)
    mean = sum(tails[1:])
    assert mean == pytest.approx(trials * probability)


def test_outcomes_become_an_observation() -> None:
    total = Observation.of(
        [
            Outcome(arm="canary", latency_ms=5, score_error=0.1, served=(0.2,), offline=(0.1,)),
            Outcome(arm="canary", latency_ms=900, failure="timeout"),
        ]
    ) + Observation.of([Outcome(arm="canary", latency_ms=7)])
    assert (total.requests, total.errors, total.latencies_ms) == (3, 1, (5, 7))
    assert (total.max_score_error, total.score_drift) == (0.1, 1.0)
    assert total.figures()["first_failure"] == "timeout"
    assert Observation().figures()["p95_ms"] is None


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_percentile_is_a_value_that_enough_values_do_not_exceed(
    values: list[float], percent: float
) -> None:
    found = percentile(values, percent)
    assert found in values
    assert sum(v <= found for v in values) >= percent / 100 * len(values)


@given(st.lists(st.floats(0, 1), min_size=1), st.lists(st.floats(0, 1), min_size=1))
def test_ks_statistic(left: list[float], right: list[float]) -> None:
    assert ks_statistic(left, left) == 0
    assert 0 <= ks_statistic(left, right) == ks_statistic(right, left) <= 1
