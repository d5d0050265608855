"""A rollout on one machine: two servers, a splitter, golden traffic, the state machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from genrec_model.errors import ConfigError, RegistryError
from genrec_serving.rollout.golden import Ranking, by_question, read_golden
from genrec_serving.rollout.judge import Decision, judge
from genrec_serving.rollout.machine import RolloutState, begin, proceed
from genrec_serving.rollout.observation import Observation
from genrec_serving.rollout.plan import RolloutPlan
from genrec_serving.rollout.registry_state import PREVIOUS_TAG, RolloutRegistry
from genrec_serving.rollout.splitter import Backend, Routing, Splitter
from genrec_serving.rollout.splitter_server import running
from genrec_serving.rollout.traffic import Replay

logger = logging.getLogger(__name__)

#: Requests to each server before the first step, whose latencies nobody judges.
WARM_UP = 32


class ModelServer(Protocol):
    """A server that runs already."""

    @property
    def base_url(self) -> str:
        """``http://host:port``."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One judgement.

    Args:
        percent: share of the users at the canary.
        requests, errors: of the canary, extensions of the step included.
        p95_ms: of the canary, milliseconds; None where it answered nothing.
        decision: advance, promote, rollback or extend.
        reasons: sentences with figures.
        canary, stable: all figures of the arms; None for an arm that does not exist.
    """

    percent: int
    requests: int
    errors: int
    p95_ms: float | None
    decision: Decision
    reasons: tuple[str, ...]
    canary: Mapping[str, Any]
    stable: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class RolloutReport:
    """What became of a rollout.

    Args:
        model: in the registry.
        version: the challenger.
        champion: the champion before; None for a first version.
        steps: the judgements of this run; a run that was resumed leaves out the earlier ones.
        promoted: whether the challenger is champion now.
        reason: why it ended.
    """

    model: str
    version: str
    champion: str | None
    steps: tuple[StepReport, ...]
    promoted: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def run_local_rollout(
    *,
    registry: RolloutRegistry,
    plan: RolloutPlan,
    champion: ModelServer | None,
    challenger: ModelServer,
    golden: Iterable[Mapping[str, Any]],
    champion_golden: Iterable[Mapping[str, Any]] = (),
    host: str = "127.0.0.1",
    port: int = 0,
    concurrency: int = 8,
    timeout_s: float = 30.0,
    on_step: Callable[[StepReport], None] | None = None,
) -> RolloutReport:
    """Walk the challenger through the plan and promote it or roll it back.

    The registry is written after each step, so that a rollout that was killed goes on where it
    was. Without a champion the steps collapse to one judgement at 100 %. A server that dies
    midway rolls the challenger back. Whatever ends this function otherwise leaves the rollout
    resumable and the splitter, as long as it lives, at 0 %.

    Args:
        registry: names champion and challenger.
        plan: steps and demands.
        champion: serves the registry's champion; None if there is none.
        challenger: serves the registry's challenger.
        golden: the challenger's golden requests: they are the traffic, and its offline scores.
        champion_golden: the champion's; compared where its questions are the same.
        host, port: of the splitter; port 0 takes a free one.
        concurrency: requests under way at once.
        timeout_s: for one request.
        on_step: called after each judgement.

    Raises:
        RegistryError: there is no challenger.
        ConfigError: the registry has a champion and no server is given for it, or the reverse;
            there are no golden requests.
    """
    completed = registry.finish_interrupted()
    if completed is not None:
        return RolloutReport(
            model=registry.model,
            version=completed,
            champion=registry.tags(completed).get(PREVIOUS_TAG) or None,
            steps=(),
            promoted=True,
            reason=registry.state(completed).reason,
        )
    version, stable_version = registry.challenger(), registry.champion()
    if version is None:
        raise RegistryError(f"model {registry.model!r} has no challenger to roll out")
    if (champion is None) != (stable_version is None):
        raise ConfigError(
            f"model {registry.model!r} has "
            + ("no champion" if stable_version is None else f"champion {stable_version}")
            + (", and no server for it is given" if champion is None else ", and a server is given")
        )
    if stable_version is None:
        plan = plan.at_once()
    requests = read_golden(golden)
    offline: dict[str, Mapping[str, Ranking]] = {version: by_question(requests)}
    stable = None
    if champion is not None and stable_version is not None:
        stable = Backend(base_url=champion.base_url, version=stable_version)
        offline[stable_version] = by_question(read_golden(champion_golden))
    canary = Backend(base_url=challenger.base_url, version=version)
    splitter = Splitter(
        Routing(stable=stable, canary=canary, salt=f"{registry.model}/{version}"),
        # The splitter gives up first: its answer says which arm it was.
        timeout_s=timeout_s * 0.9,
    )
    with running(splitter.app, host=host, port=port) as base_url:
        replay = Replay(
            base_url=base_url,
            requests=requests,
            golden=offline,
            concurrency=concurrency,
            timeout_s=timeout_s,
        )
        for server in (champion, challenger):
            if server is not None:
                asyncio.run(replace(replay, base_url=server.base_url).send(WARM_UP))
        with _back_to_stable(splitter):
            walk = _Walk(registry, plan, version, splitter, replay, stable is not None, on_step)
            state = walk.run()
    return RolloutReport(
        model=registry.model,
        version=version,
        champion=stable_version,
        steps=tuple(walk.reports),
        promoted=state.phase == "promoted",
        reason=state.reason,
    )


class _Walk:
    """The loop of a rollout: set the share, send traffic, judge, keep the state."""

    def __init__(
        self,
        registry: RolloutRegistry,
        plan: RolloutPlan,
        version: str,
        splitter: Splitter,
        replay: Replay,
        has_stable: bool,
        on_step: Callable[[StepReport], None] | None,
    ) -> None:
        self._registry = registry
        self._plan = plan
        self._version = version
        self._splitter = splitter
        self._replay = replay
        self._has_stable = has_stable
        self._on_step = on_step
        self._sent = 0
        self.reports: list[StepReport] = []

    def run(self) -> RolloutState:
        state = begin(self._registry.state(self._version), self._plan)
        self._registry.save(self._version, state)
        seen = {"stable": Observation(), "canary": Observation()}
        while not state.over:
            self._splitter.set_canary_percent(state.percent)
            new = asyncio.run(self._replay.send(self._plan.requests_per_step, start=self._sent))
            self._sent += self._plan.requests_per_step
            seen = {arm: seen[arm] + new[arm] for arm in seen}
            after = self._judged(state, seen["canary"], seen["stable"])
            if after.step != state.step:
                seen = {arm: Observation() for arm in seen}
            state = after
        self._splitter.set_canary_percent(state.percent)
        return state

    def _judged(
        self, state: RolloutState, canary: Observation, stable: Observation
    ) -> RolloutState:
        verdict = judge(
            self._plan,
            step=state.step,
            canary=canary,
            stable=stable if self._has_stable else None,
            extensions=state.extensions,
        )
        after = proceed(state, self._plan, verdict, canary)
        if after.phase == "rolled_back":
            # Users are back at the stable version before anything slow is written.
            self._splitter.set_canary_percent(0)
        self._registry.save(self._version, after)
        report = StepReport(
            percent=state.percent,
            requests=canary.requests,
            errors=canary.errors,
            p95_ms=canary.figures()["p95_ms"],
            decision=verdict.decision,
            reasons=verdict.reasons,
            canary=canary.figures(),
            stable=stable.figures() if self._has_stable else None,
        )
        self.reports.append(report)
        logger.info(
            "%d %% at version %s: %s (%s)",
            state.percent,
            self._version,
            verdict.decision,
            "; ".join(verdict.reasons),
        )
        if self._on_step is not None:
            self._on_step(report)
        return after


@contextlib.contextmanager
def _back_to_stable(splitter: Splitter) -> Iterator[None]:
    """Send everybody to the stable version when the block raises."""
    try:
        yield
    except BaseException:
        splitter.set_canary_percent(0)
        raise
