from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_model.errors import RegistryError
from genrec_serving.rollout.judge import Verdict, judge
from genrec_serving.rollout.machine import RolloutState, begin, proceed
from genrec_serving.rollout.observation import Observation
from genrec_serving.rollout.plan import SLO, RolloutPlan
from genrec_serving.rollout.registry_state import MemoryRegistry

PLAN = RolloutPlan(steps=(5, 25, 100), max_extensions=2, slo=SLO(min_requests=5))

observations = st.builds(
    lambda good, bad, ms, error: Observation(
        requests=good + bad,
        errors=bad,
        latencies_ms=(ms,) * good,
        score_errors=(error,) * good,
        first_failure="HTTP 500" if bad else None,
    ),
    st.integers(0, 60),
    st.sampled_from([0, 0, 0, 0, 1, 3]),
    st.sampled_from([5.0, 5.0, 5.0, 5000.0]),
    st.sampled_from([0.0, 0.0, 0.0, 0.1]),
)


def walk(seen: Sequence[Observation], *, through_tags: bool) -> list[RolloutState]:
    states = [begin(RolloutState(), PLAN)]
    for canary in seen:
        state = states[-1]
        if through_tags:  # as if the process had been killed here
            state = begin(RolloutState.from_tags(state.to_tags()), PLAN)
        verdict = judge(
            PLAN, step=state.step, canary=canary, stable=None, extensions=state.extensions
        )
        states.append(proceed(state, PLAN, verdict, canary))
        if states[-1].over:
            break
    return states


@given(st.lists(observations, max_size=12))
def test_a_resumed_rollout_equals_an_uninterrupted_one(seen: list[Observation]) -> None:
    assert walk(seen, through_tags=True) == walk(seen, through_tags=False)


@given(st.lists(observations, max_size=12))
def test_only_good_steps_lead_to_promotion(seen: list[Observation]) -> None:
    states = walk(seen, through_tags=False)
    last = states[-1]
    if last.phase == "promoted":
        decisions = [record.decision for record in last.history]
        assert "rollback" not in decisions
        assert decisions[-1] == "promote"
        judged = [record.percent for record in last.history if record.decision != "extend"]
        assert judged == list(PLAN.steps)
        for record in last.history:
            assert record.errors <= 0.01 * max(record.requests, 5)
    if last.phase == "rolled_back":
        assert last.percent == 0
        assert last.reason
    percents = [state.percent for state in states if not state.over]
    assert all(low <= high for low, high in itertools.pairwise(percents))
    assert all(state.extensions <= PLAN.max_extensions for state in states)


def test_an_ended_rollout_stays_ended_until_it_is_begun_anew() -> None:
    bad = Verdict(decision="rollback", reasons=("slow",))
    ended = proceed(begin(RolloutState(), PLAN), PLAN, bad, Observation())
    good = Verdict(decision="advance", reasons=("fine",))
    assert proceed(ended, PLAN, good, Observation()) is ended
    assert begin(ended, PLAN) == begin(RolloutState(), PLAN)


def test_each_step_may_be_extended_anew() -> None:
    state = RolloutState(phase="canary", step=0, percent=5, extensions=2)
    after = proceed(state, PLAN, Verdict(decision="advance", reasons=("fine",)), Observation())
    assert (after.step, after.percent, after.extensions) == (1, 25, 0)


def test_another_plan_takes_no_user_from_the_canary() -> None:
    state = RolloutState(phase="canary", step=1, percent=25, extensions=1)
    assert begin(state, PLAN) is state
    resumed = begin(state, RolloutPlan(steps=(10, 20, 30, 100)))
    assert (resumed.step, resumed.percent, resumed.extensions) == (2, 30, 0)


def test_history_fits_in_a_tag() -> None:
    plan = RolloutPlan(steps=tuple(range(20, 101)))
    state = begin(RolloutState(), plan)
    for _ in range(80):
        verdict = Verdict(decision="advance", reasons=("words " * 200,))
        state = proceed(state, plan, verdict, Observation())
    assert max(map(len, state.to_tags().values())) < 5000
    assert state.history[-1].percent == 99
    assert RolloutState.from_tags(state.to_tags()) == state


@pytest.mark.parametrize("text", ["{", "[]", '{"phase": "canary"}', '{"history": [{"a": 1}]}'])
def test_a_strange_tag_is_a_clear_error(text: str) -> None:
    with pytest.raises(RegistryError, match="rollout_history"):
        RolloutState.from_tags({"rollout_history": text})


def test_idle_without_tags() -> None:
    assert RolloutState.from_tags({}) == RolloutState()


class KilledError(Exception):
    pass


class Mortal(MemoryRegistry):
    """Dies at the n-th write."""

    writes_left = 10**9

    def _write(self) -> None:
        if self.writes_left == 0:
            raise KilledError
        self.writes_left -= 1

    def set_alias(self, name: str, version: str) -> None:
        self._write()
        super().set_alias(name, version)

    def delete_alias(self, name: str) -> None:
        self._write()
        super().delete_alias(name)

    def write(self, version: str, tags: dict[str, str]) -> None:  # type: ignore[override]
        for key, value in tags.items():
            self._write()
            super().write(version, {key: value})


@pytest.mark.parametrize("writes", range(10))
@pytest.mark.parametrize("phase", ["promoted", "rolled_back"])
def test_a_kill_between_any_two_writes_can_be_mended(phase: str, writes: int) -> None:
    registry = Mortal(
        "m", versions={"1": "s3://1", "2": "s3://2"}, aliases={"champion": "1", "challenger": "2"}
    )
    good = Observation(requests=50, latencies_ms=(1.0,) * 50, score_errors=(0.0,))
    state = RolloutState(phase="canary", step=2, percent=100)
    registry.save("2", state)
    verdict = judge(PLAN, step=2, canary=good, stable=None)
    if phase == "rolled_back":
        verdict = Verdict(decision="rollback", reasons=("slow",))
    after = proceed(state, PLAN, verdict, good)
    registry.writes_left = writes
    try:
        registry.save("2", after)
    except KilledError:
        registry.writes_left = 10**9
        registry.finish_interrupted()
        if registry.challenger() == "2":  # the step is judged once more
            assert begin(registry.state("2"), PLAN) == state
            registry.save("2", after)
    assert registry.challenger() is None
    assert registry.champion() == ("2" if phase == "promoted" else "1")
    if phase == "promoted":
        assert registry.tags("2")["previous_champion"] == "1"
