"""The evaluation of one model, against popularity and the current champion."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError
from genrec_model.evaluation.gate import QualityGate
from genrec_model.evaluation.golden import golden_requests
from genrec_model.evaluation.retrieval import (
    evaluate_popularity,
    evaluate_retrieval,
    retrieval_targets,
)
from genrec_model.evaluation.tasks import base_rates, evaluate_tasks
from genrec_model.features.prepare import Features
from genrec_model.features.rows import Ints
from genrec_model.features.sequences import NO_LABEL, UserSequences

#: Histories of fewer events are short.
SHORT_HISTORY = 20
#: Items with fewer training events are new.
NEW_ITEM = 6


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How a model is evaluated.

    Args:
        max_targets: events of the test period to predict; a seeded sample where there are more.
        golden_users: users whose requests and answers go into the artifact.
        seed: of the samples.
        gate: what the model must reach.
    """

    max_targets: int = 20_000
    golden_users: int = 48
    seed: int = 0
    gate: QualityGate = field(default_factory=QualityGate)

    def __post_init__(self) -> None:
        if self.max_targets < 1 or self.golden_users < 1:
            raise ConfigError("evaluation: max_targets and golden_users must be at least 1")


def _task_targets(sequences: UserSequences, features: Features, options: EvaluationOptions) -> Ints:
    """Events after the training period with a known label.

    The validation period is among them: the labels of the test period's last days, whose horizon
    has not passed, are not known, and no model was chosen by any label.
    """
    later = retrieval_targets(
        sequences,
        start=features.dataset.split.validation,
        stop=np.iinfo(np.int64).max,
        limit=len(sequences.items),
        seed=options.seed,
    )
    known: Ints = later[(sequences.labels[later] != NO_LABEL).any(axis=1)]
    if len(known) > options.max_targets:
        rng = np.random.default_rng(options.seed)
        known = np.sort(rng.choice(known, options.max_targets, replace=False))
    return known


def evaluate(
    artifact: Artifact,
    features: Features,
    *,
    champion: Artifact | None = None,
    options: EvaluationOptions | None = None,
) -> dict[str, Any]:
    """Measure a model on the test period and write ``metrics.json`` and ``golden.json``.

    Returns:
        What ``metrics.json`` holds: ``retrieval`` (metrics of ``hstu``, ``popularity`` and, where
        there is one, ``champion``), ``slices``, ``tasks``, ``unlabelled``, ``gate``.
    """
    options = options or EvaluationOptions()
    split, spec = features.dataset.split, features.dataset.spec
    sequences = features.sequences(artifact.vocabulary)
    targets = retrieval_targets(
        sequences,
        start=split.test,
        stop=np.iinfo(np.int64).max,
        limit=options.max_targets,
        seed=options.seed,
    )
    model = artifact.load_model()
    counts = artifact.vocabulary.train_counts
    own = evaluate_retrieval(model, sequences, targets, exclude_seen=spec.exclude_seen)
    popular = evaluate_popularity(
        model.config, sequences, targets, counts, exclude_seen=spec.exclude_seen
    )
    retrieval = {"hstu": own.metrics, "popularity": popular.metrics}
    if champion is not None:
        retrieval["champion"] = evaluate_retrieval(
            champion.load_model(),
            features.sequences(champion.vocabulary),
            targets,
            exclude_seen=spec.exclude_seen,
        ).metrics

    first = sequences.offsets[np.searchsorted(sequences.offsets, own.targets, side="right") - 1]
    length = own.targets - first
    new = counts[sequences.items[own.targets]] < NEW_ITEM
    masks = {
        f"history under {SHORT_HISTORY}": length < SHORT_HISTORY,
        f"history of {SHORT_HISTORY} or more": length >= SHORT_HISTORY,
        f"item seen under {NEW_ITEM} times": new,
        f"item seen {NEW_ITEM} times or more": ~new,
    }
    tasks = evaluate_tasks(
        model,
        sequences,
        _task_targets(sequences, features, options),
        base_rates=base_rates(sequences, split.validation),
    )
    reasons = options.gate.judge(retrieval, tasks)
    metrics = {
        "retrieval": retrieval,
        "slices": {"hstu": own.slices(masks), "popularity": popular.slices(masks)},
        "tasks": tasks,
        "unlabelled": dict(spec.unlabelled),
        "gate": {"passed": not reasons, "reasons": reasons, **asdict(options.gate)},
    }
    artifact.write("metrics.json", metrics)
    artifact.write("golden.json", golden_requests(artifact, features, users=options.golden_users))
    return metrics
