"""Ranks and the metrics made of them, against answers worked out by hand and by serving code."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_model.evaluation.golden import recommend_offline
from genrec_model.evaluation.retrieval import (
    evaluate_popularity,
    evaluate_retrieval,
    rank_metrics,
    retrieval_targets,
)
from genrec_model.evaluation.windows import target_windows
from genrec_model.features.prepare import Features
from genrec_model.features.rows import window_start
from genrec_model.hstu import HSTU
from genrec_model.training.run import model_config


def test_metrics_by_hand() -> None:
    metrics = rank_metrics(np.array([1.0, 3.0, 11.0, np.inf]))
    assert metrics["targets"] == 4
    assert metrics["hr_10"] == pytest.approx(2 / 4)
    assert metrics["hr_50"] == pytest.approx(3 / 4)
    assert metrics["ndcg_10"] == pytest.approx((1 + 1 / 2) / 4)
    assert metrics["mrr_10"] == pytest.approx((1 + 1 / 3) / 4)
    assert rank_metrics(np.empty(0))["hr_10"] == 0.0


@pytest.fixture(scope="module")
def model(features: Features) -> HSTU:
    import torch

    torch.manual_seed(0)
    shape = {"max_history": 11, "chunk_size": 4, "hidden_size": 16, "num_layers": 1}
    model = HSTU(model_config(features, shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    return model


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_rank_is_the_place_in_what_would_be_served(
    model: HSTU, features: Features, exclude_seen: bool
) -> None:
    sequences = features.sequences()
    targets = retrieval_targets(
        sequences, start=features.dataset.split.test, stop=2**60, limit=40, seed=0
    )
    result = evaluate_retrieval(model, sequences, targets, exclude_seen=exclude_seen)
    assert result.targets.tolist() == targets.tolist()
    checked = 0
    for target, rank in zip(targets.tolist(), result.ranks.tolist(), strict=True):
        user = int(np.searchsorted(sequences.offsets, target, side="right")) - 1
        begin = int(sequences.offsets[user])
        start = begin + window_start(target - begin, 11, 4)
        served, _, _ = recommend_offline(
            model,
            sequences.items[start:target],
            sequences.actions[start:target],
            sequences.timestamps[start:target],
            now=int(sequences.timestamps[target]),
            k=24,
            exclude_seen=False,
        )
        seen = set(sequences.items[begin:target].tolist()) if exclude_seen else set()
        item = int(sequences.items[target])
        order = [i for i in served.tolist() if i not in seen or i == item]
        assert order.index(item) + 1 == rank
        checked += 1
    assert checked == 40


def test_popularity_is_the_order_of_counts(model: HSTU, features: Features) -> None:
    sequences = features.sequences()
    targets = np.flatnonzero(sequences.timestamps >= features.dataset.split.test)[:30]
    counts = np.arange(features.vocabulary.num_items)[::-1].copy()
    result = evaluate_popularity(model.config, sequences, targets, counts, exclude_seen=False)
    assert result.ranks.tolist() == (sequences.items[targets] - 2).tolist()


def test_equal_scores_share_their_ranks(model: HSTU, features: Features) -> None:
    sequences = features.sequences()
    targets = np.array([5, 50])
    flat = np.ones(features.vocabulary.num_items, np.int64)
    result = evaluate_popularity(model.config, sequences, targets, flat, exclude_seen=False)
    items = features.vocabulary.num_items - 3
    assert result.ranks.tolist() == [(items + 1) / 2] * 2


def test_windows_hold_each_target_once(model: HSTU, features: Features) -> None:
    sequences = features.sequences()
    targets = np.arange(len(sequences.items))
    windows = target_windows(sequences, targets, model.config)
    found = np.sort(np.concatenate([window.targets for window in windows]))
    assert found.tolist() == targets.tolist()
    for window in windows:
        assert (window.targets - window.first <= model.config.max_history).all()
        assert (window.targets >= window.first).all()
