"""A rollout against the real model server: one process plays both arms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_model.evaluation.golden import recommend_offline
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_serving.local_server import LocalModelServer
from genrec_serving.rollout.local import run_local_rollout
from genrec_serving.rollout.plan import SLO, RolloutPlan
from genrec_serving.rollout.registry_state import MemoryRegistry

NOW = 1_700_000_000


def offline_answers(artifact: Artifact, *, users: int, k: int = 5) -> list[dict[str, Any]]:
    model, vocabulary = artifact.load_model(), artifact.vocabulary
    rng = np.random.default_rng(0)
    golden = []
    for user in range(users):
        events = int(rng.integers(0, 40))
        items = rng.permutation(50)[:events] + NUM_RESERVED
        actions = rng.integers(0, 2, events) + NUM_RESERVED_ACTIONS
        times = NOW - 1000 + np.arange(events)
        top, scores, tasks = recommend_offline(
            model, items, actions, times, now=NOW, k=k, exclude_seen=True
        )
        golden.append(
            {
                "user_id": user,
                "now": NOW,
                "k": k,
                "history": [
                    {
                        "item_id": vocabulary.item_ids[item - NUM_RESERVED],
                        "action": vocabulary.actions[action - NUM_RESERVED_ACTIONS],
                        "timestamp": time,
                    }
                    for item, action, time in zip(
                        items.tolist(), actions.tolist(), times.tolist(), strict=True
                    )
                ],
                "expected": {
                    "items": [vocabulary.item_ids[item - NUM_RESERVED] for item in top.tolist()],
                    "scores": scores.tolist(),
                    "tasks": {
                        task: tasks[:, index].tolist()
                        for index, task in enumerate(artifact.config.tasks)
                    },
                },
            }
        )
    return golden


@pytest.mark.slow
def test_a_real_rollout(tiny_artifact: Artifact, registry: MemoryRegistry, tmp_path: Path) -> None:
    golden = offline_answers(tiny_artifact, users=20)
    plan = RolloutPlan(
        steps=(20, 100),
        requests_per_step=60,
        slo=SLO(min_requests=5, max_score_error=1e-4, max_p95_ms=5000, min_p95_gap_ms=2000),
    )
    log = tmp_path / "server.log"
    with LocalModelServer(tiny_artifact.path, log=log, strategy="torch") as server:
        wrong = [dict(one) for one in golden]
        one = wrong[0]["expected"]
        shifted = {task: [value / 2 for value in values] for task, values in one["tasks"].items()}
        wrong[0]["expected"] = {**one, "tasks": shifted}
        for expected, promoted in ((wrong, False), (golden, True)):
            registry.set_alias("challenger", "8")
            report = run_local_rollout(
                registry=registry,
                plan=plan,
                champion=server,
                challenger=server,
                golden=expected,
                champion_golden=golden,
            )
            assert report.promoted == promoted, report.reason
    assert report.steps[-1].canary["compared"] == 60
    assert "offline" in registry.tags("8")["rollout_reason"]
