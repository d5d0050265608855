"""The state machine of a rollout. Pure and idempotent; it lives in tags of the challenger.

::

    idle ──begin──► canary(5 %) ──advance──► canary(25 %) … canary(100 %) ──promote──► promoted
                       │  ▲                       │
                       └──┘ extend                └──rollback──► rolled_back

One tag, ``rollout_history``, holds the whole state, so that a rollout that is killed between
two writes resumes from a state that existed. The other tags say the same to people and to the
reconciler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from genrec_model.errors import RegistryError
from genrec_serving.rollout.judge import Verdict
from genrec_serving.rollout.observation import Observation
from genrec_serving.rollout.plan import RolloutPlan

Phase = Literal["idle", "canary", "promoted", "rolled_back"]

PERCENT_TAG = "canary_percent"
STATE_TAG = "rollout_state"
STEP_TAG = "rollout_step"
REASON_TAG = "rollout_reason"
HISTORY_TAG = "rollout_history"

#: MLflow refuses tags of more than 5000 characters.
MAX_TAG = 4800
MAX_REASON = 400


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One judgement, as the history keeps it.

    Args:
        percent: share of the users at the canary.
        requests, errors: of the canary.
        p95_ms: of the canary, milliseconds.
        decision: what followed.
        reason: why.
    """

    percent: int
    requests: int
    errors: int
    p95_ms: float | None
    decision: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """Where a rollout is.

    Args:
        phase: see the picture above.
        step: index in the plan's steps.
        percent: share of the users at the canary, 0 to 100.
        extensions: how often the step was prolonged.
        reason: why it ended; empty before.
        history: judgements so far; the oldest are dropped when it grows beyond a tag.
    """

    phase: Phase = "idle"
    step: int = 0
    percent: int = 0
    extensions: int = 0
    reason: str = ""
    history: tuple[StepRecord, ...] = ()

    @property
    def over(self) -> bool:
        """Whether the rollout has ended."""
        return self.phase in ("promoted", "rolled_back")

    def to_tags(self) -> dict[str, str]:
        """As tags of the challenger's version."""
        return {
            HISTORY_TAG: self._json(),
            PERCENT_TAG: str(self.percent),
            STEP_TAG: str(self.step),
            REASON_TAG: self.reason,
            STATE_TAG: self.phase,
        }

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> RolloutState:
        """The reverse of `to_tags`; idle where no rollout was begun.

        Raises:
            RegistryError: the tag is not one that this program wrote.
        """
        text = tags.get(HISTORY_TAG)
        if not text:
            return cls()
        try:
            values: dict[str, Any] = json.loads(text)
            history = tuple(StepRecord(**record) for record in values.pop("history"))
            return cls(**values, history=history)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RegistryError(
                f"tag {HISTORY_TAG} cannot be read ({error}); delete it to begin the rollout anew"
            ) from error

    def _json(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))


def begin(state: RolloutState, plan: RolloutPlan) -> RolloutState:
    """Begin a rollout, or go on with one that was interrupted.

    One that has ended begins anew: its challenger was put forward again. When the plan has
    changed meanwhile, the rollout goes on at the first step that takes no user away from the
    canary.
    """
    if state.phase != "canary":
        return RolloutState(phase="canary", step=0, percent=plan.steps[0])
    if state.step < len(plan.steps) and plan.steps[state.step] == state.percent:
        return state
    step = next(i for i, percent in enumerate(plan.steps) if percent >= state.percent)
    return replace(state, step=step, percent=plan.steps[step], extensions=0)


def proceed(
    state: RolloutState, plan: RolloutPlan, verdict: Verdict, canary: Observation
) -> RolloutState:
    """The state after a verdict; a rollout that has ended stays as it is."""
    if state.phase != "canary":
        return state
    reason = "; ".join(verdict.reasons)[:MAX_REASON]
    record = StepRecord(
        percent=state.percent,
        requests=canary.requests,
        errors=canary.errors,
        p95_ms=None if canary.p95_ms is None else round(canary.p95_ms, 3),
        decision=verdict.decision,
        reason=reason,
    )
    state = replace(state, history=(*state.history, record))
    if verdict.decision == "rollback":
        state = replace(state, phase="rolled_back", percent=0, reason=reason)
    elif verdict.decision == "extend":
        state = replace(state, extensions=state.extensions + 1)
    elif verdict.decision == "promote":
        assert plan.is_last(state.step), "only the last step promotes"
        state = replace(state, phase="promoted", percent=100, reason=reason)
    else:
        assert not plan.is_last(state.step), "the last step promotes"
        step = state.step + 1
        state = replace(state, step=step, percent=plan.steps[step], extensions=0)
    return _fitting(state)


def _fitting(state: RolloutState) -> RolloutState:
    """Without the oldest judgements that a tag has no room for."""
    while len(state._json()) > MAX_TAG and state.history:
        state = replace(state, history=state.history[1:])
    return state
