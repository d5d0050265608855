"""Task metrics by hand, the whole evaluation, and the gate that reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError, GateFailed
from genrec_model.evaluation.evaluate import EvaluationOptions, evaluate
from genrec_model.evaluation.gate import QualityGate, require_passed
from genrec_model.evaluation.golden import recommend_offline
from genrec_model.evaluation.tasks import (
    base_rates,
    binary_metrics,
    calibration_bins,
    grouped_auc,
    predict_tasks,
)
from genrec_model.features.prepare import Features
from genrec_model.hstu import HSTU
from genrec_model.training.run import model_config


def test_binary_metrics_by_hand() -> None:
    labels = np.array([0, 1, 0, 1])
    scores = np.array([0.1, 0.8, 0.6, 0.5])
    metrics = binary_metrics(labels, scores, np.array([1, 1, 2, 2]), base_rate=0.5)
    assert metrics["auc"] == pytest.approx(3 / 4)
    assert metrics["gauc"] == pytest.approx((1.0 * 2 + 0.0 * 2) / 4)
    expected = -np.log([0.9, 0.8, 0.4, 0.5]).mean()
    assert metrics["log_loss"] == pytest.approx(expected)
    assert metrics["normalized_entropy"] == pytest.approx(expected / np.log(2))
    assert metrics["calibration"] == pytest.approx(scores.mean() / 0.5)
    assert sum(b["events"] for b in metrics["bins"]) == 4


def test_metrics_that_the_labels_do_not_allow() -> None:
    ones = np.ones(3, np.int64)
    metrics = binary_metrics(ones, np.full(3, 0.5), ones, base_rate=0.5)
    assert metrics["auc"] is None
    assert metrics["gauc"] is None
    assert binary_metrics(ones[:0], np.empty(0), ones[:0], base_rate=0.5) == {"events": 0}


def test_grouped_auc_ignores_the_order_of_users() -> None:
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.3, 0.2])
    assert grouped_auc(labels, scores, np.array([1, 2, 2, 1])) == 1.0 / 2


def test_calibration_bins_are_equally_full() -> None:
    scores = np.linspace(0, 1, 100)
    bins = calibration_bins((scores > 0.5).astype(np.int64), scores)
    assert [b["events"] for b in bins] == [10.0] * 10
    assert bins[0]["observed"] == 0.0
    assert bins[-1]["observed"] == 1.0


@pytest.fixture
def artifact(features: Features, tmp_path: Path) -> Artifact:
    torch.manual_seed(1)
    shape = {"max_history": 11, "chunk_size": 4, "hidden_size": 16, "num_layers": 1}
    return Artifact.create(
        tmp_path / "model",
        model=HSTU(model_config(features, shape)),
        vocabulary=features.vocabulary,
        dataset=features.dataset,
        training={},
    )


def test_predictions_are_what_serving_answers(artifact: Artifact, features: Features) -> None:
    model, sequences = artifact.load_model(), features.sequences()
    target = int(sequences.offsets[3]) + 6
    _, predicted = predict_tasks(model, sequences, np.array([target]))
    span = slice(int(sequences.offsets[3]), target)
    chosen, _, tasks = recommend_offline(
        model,
        sequences.items[span],
        sequences.actions[span],
        sequences.timestamps[span],
        now=int(sequences.timestamps[target]),
        k=24,
        exclude_seen=False,
    )
    served = tasks[chosen.tolist().index(int(sequences.items[target]))]
    np.testing.assert_allclose(predicted[0], served.numpy(), atol=1e-6)


def test_base_rates_know_only_the_past(features: Features) -> None:
    sequences = features.sequences()
    assert (base_rates(sequences, 0) == 0.5).all()
    rates = base_rates(sequences, features.dataset.split.validation)
    assert rates[0] == pytest.approx(0.5, abs=0.05)  # half of the items are bought


def test_evaluation_of_an_untrained_model(artifact: Artifact, features: Features) -> None:
    options = EvaluationOptions(max_targets=200, golden_users=5)
    metrics = evaluate(artifact, features, champion=artifact, options=options)
    assert artifact.metrics == metrics
    retrieval = metrics["retrieval"]
    assert retrieval["champion"] == retrieval["hstu"]
    assert retrieval["hstu"]["targets"] == 200
    assert set(metrics["tasks"]) == {"engagement", "retention"}
    assert metrics["unlabelled"] == {"monetization": "the shop does not tell its prices"}
    pair = [part["targets"] for part in metrics["slices"]["hstu"].values()]
    assert pair[0] + pair[1] == pair[2] + pair[3] == 200
    assert len(artifact.golden) == 5
    for request in artifact.golden:
        assert len(request["history"]) <= 11
        assert all(event["timestamp"] <= request["now"] for event in request["history"])
        seen = {event["item_id"] for event in request["history"]}
        assert not seen & set(request["expected"]["items"])


RETRIEVAL = {
    "hstu": {"hr_10": 0.2, "ndcg_10": 0.10},
    "popularity": {"hr_10": 0.1, "ndcg_10": 0.05},
    "champion": {"hr_10": 0.2, "ndcg_10": 0.104},
}
TASKS: dict[str, dict[str, Any]] = {"engagement": {"auc": 0.7}, "retention": {"auc": None}}


def test_the_gate_lets_a_good_model_pass() -> None:
    assert QualityGate(min_lift=1.5).judge(RETRIEVAL, TASKS) == []


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        (QualityGate(min_lift=2.5), "below 2.5 x popularity's 0.1000"),
        (QualityGate(max_champion_drop=0.01), "more than 1% below the champion's 0.1040"),
        (QualityGate(min_task_auc=0.8), "AUC of engagement is 0.7000, below 0.8"),
    ],
)
def test_the_gate_says_why_not(gate: QualityGate, reason: str) -> None:
    reasons = gate.judge(RETRIEVAL, TASKS)
    assert len(reasons) == 1
    assert reason in reasons[0]
    with pytest.raises(GateFailed, match="quality gate"):
        require_passed({"passed": False, "reasons": reasons})


def test_impossible_gates() -> None:
    with pytest.raises(ConfigError):
        QualityGate(max_champion_drop=2)
    with pytest.raises(ConfigError):
        EvaluationOptions(max_targets=0)
