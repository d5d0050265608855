from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from genrec_model.errors import ConfigError, RegistryError
from genrec_serving.rollout.golden import by_question, read_golden
from genrec_serving.rollout.local import WARM_UP, RolloutReport, StepReport, run_local_rollout
from genrec_serving.rollout.machine import RolloutState
from genrec_serving.rollout.plan import SLO, RolloutPlan
from genrec_serving.rollout.registry_state import MemoryRegistry
from genrec_serving.rollout.traffic import Replay

PLAN = RolloutPlan(
    steps=(10, 50, 100),
    requests_per_step=120,
    slo=SLO(min_requests=8, max_p95_ms=800, min_p95_gap_ms=60),
)

Start = Callable[..., Any]
Golden = list[dict[str, Any]]


def roll_out(registry: MemoryRegistry, golden: Golden, **options: Any) -> RolloutReport:
    return run_local_rollout(**{"registry": registry, "plan": PLAN, "golden": golden, **options})


def test_a_good_challenger_is_promoted(
    start: Start, registry: MemoryRegistry, golden: Golden
) -> None:
    champion, challenger = start(), start()
    shown: list[StepReport] = []
    report = roll_out(
        registry,
        golden,
        champion=champion,
        challenger=challenger,
        champion_golden=golden,
        on_step=shown.append,
    )
    assert report.promoted
    assert (report.version, report.champion) == ("8", "7")
    judged = [(step.percent, step.decision) for step in report.steps if step.decision != "extend"]
    assert judged == [(10, "advance"), (50, "advance"), (100, "promote")]
    assert shown == list(report.steps)
    assert report.steps[-1].canary["max_score_error"] == 0
    assert report.steps[0].stable is not None
    assert report.steps[0].stable["compared"] > 0
    assert (registry.champion(), registry.challenger()) == ("8", None)
    tags = registry.tags("8")
    assert (tags["rollout_state"], tags["canary_percent"]) == ("promoted", "100")
    assert tags["previous_champion"] == "7"
    assert json.loads(tags["rollout_history"])["history"][-1]["decision"] == "promote"
    json.dumps(report.to_dict())
    assert set(challenger.bodies[0]) == {"history", "k", "now"}
    assert champion.seen < challenger.seen
    # Beyond the warm-up, no user was drawn twice.
    assert len(set(challenger.users)) >= challenger.seen - WARM_UP


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"fail_every": 4}, "requests failed"),
        ({"delay_s": 0.15}, "the stable arm's"),
        ({"score_offset": 0.01}, "0.01 away from its offline twin"),
        ({"nan": True}, "not a finite number"),
    ],
)
def test_a_bad_challenger_is_rolled_back(
    start: Start, registry: MemoryRegistry, golden: Golden, fault: dict[str, Any], reason: str
) -> None:
    report = roll_out(registry, golden, champion=start(), challenger=start(**fault))
    assert not report.promoted
    assert reason in report.reason
    assert report.steps[-1].percent == 10
    assert (registry.champion(), registry.challenger()) == ("7", None)
    tags = registry.tags("8")
    assert (tags["rollout_state"], tags["canary_percent"]) == ("rolled_back", "0")
    assert reason in tags["rollout_reason"]
    assert registry.tags("7")["refused_challenger"] == "8"


@pytest.mark.parametrize(
    ("victim", "reason"), [("challenger", "does not answer"), ("champion", "answered none")]
)
def test_a_server_that_dies_midway(
    start: Start, registry: MemoryRegistry, golden: Golden, victim: str, reason: str
) -> None:
    servers = {"champion": start(), "challenger": start()}

    def kill(step: StepReport) -> None:
        if step.decision == "advance":
            servers[victim].stop()

    report = roll_out(registry, golden, **servers, on_step=kill)
    assert not report.promoted
    assert reason in report.reason
    assert report.steps[-1].percent == 50
    assert (registry.champion(), registry.challenger()) == ("7", None)


def test_a_first_version_is_judged_once(start: Start, golden: Golden) -> None:
    registry = MemoryRegistry(
        "genrec", versions={"1": "s3://models/1"}, aliases={"challenger": "1"}
    )
    report = roll_out(registry, golden, champion=None, challenger=start())
    assert report.promoted
    assert [(step.percent, step.stable) for step in report.steps] == [(100, None)]
    assert (registry.champion(), report.champion) == ("1", None)


def test_a_first_version_that_is_wrong(start: Start, golden: Golden) -> None:
    registry = MemoryRegistry(
        "genrec", versions={"1": "s3://models/1"}, aliases={"challenger": "1"}
    )
    report = roll_out(registry, golden, champion=None, challenger=start(score_offset=0.5))
    assert not report.promoted
    assert (registry.champion(), registry.challenger()) == (None, None)


def test_a_killed_rollout_goes_on(start: Start, registry: MemoryRegistry, golden: Golden) -> None:
    champion, challenger = start(), start()

    def kill(step: StepReport) -> None:
        if step.decision == "advance":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roll_out(registry, golden, champion=champion, challenger=challenger, on_step=kill)
    assert registry.state("8").percent == 50
    assert (registry.champion(), registry.challenger()) == ("7", "8")
    report = roll_out(registry, golden, champion=champion, challenger=challenger)
    assert report.promoted
    assert report.steps[0].percent == 50
    decisions = [r.decision for r in registry.state("8").history if r.decision != "extend"]
    assert decisions == ["advance", "advance", "promote"]


def test_a_half_written_promotion_is_completed(
    start: Start, registry: MemoryRegistry, golden: Golden
) -> None:
    registry.save("8", RolloutState(phase="canary", step=2, percent=100))
    registry.set_alias("champion", "8")
    report = roll_out(registry, golden, champion=start(), challenger=start())
    assert (report.promoted, report.version, report.steps) == (True, "8", ())
    assert "interrupted" in report.reason
    assert (registry.champion(), registry.challenger()) == ("8", None)
    assert registry.tags("8")["rollout_state"] == "promoted"


def test_wrong_calls(start: Start, registry: MemoryRegistry, golden: Golden) -> None:
    server = start()
    with pytest.raises(ConfigError, match="champion 7, and no server"):
        roll_out(registry, golden, champion=None, challenger=server)
    with pytest.raises(ConfigError, match="no golden requests"):
        roll_out(registry, [], champion=server, challenger=server)
    registry.delete_alias("champion")
    with pytest.raises(ConfigError, match="no champion, and a server"):
        roll_out(registry, golden, champion=server, challenger=server)
    registry.delete_alias("challenger")
    with pytest.raises(RegistryError, match="no challenger"):
        roll_out(registry, golden, champion=None, challenger=server)


def test_replay_without_a_splitter(start: Start, golden: Golden) -> None:
    """As against a cluster's gateway: no arm is named, and the version is in the answer."""
    requests = read_golden(golden)
    server = start()
    replay = Replay(
        base_url=server.base_url, requests=requests, golden={"?": by_question(requests)}
    )
    seen = asyncio.run(replay.send(40))
    assert (seen["canary"].requests, seen["canary"].max_score_error) == (40, 0)
    assert seen["stable"].requests == 0
    seen = asyncio.run(replace(replay, arms={"?": "stable"}).send(10))
    assert (seen["stable"].requests, seen["canary"].requests) == (10, 0)
    server.stop()
    seen = asyncio.run(replay.send(3))
    assert seen["canary"].errors == 3
    assert seen["canary"].first_failure
