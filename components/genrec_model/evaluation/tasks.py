"""How well the task heads rank and how honest their probabilities are.

Letters in shapes: N targets, T tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from genrec_model.evaluation.windows import TargetWindow, batched, target_windows, window_rows
from genrec_model.features.reserved import UNKNOWN
from genrec_model.features.rows import Ints, UserRows, collate
from genrec_model.features.sequences import NO_LABEL, UserSequences
from genrec_model.hstu import HSTU

CALIBRATION_BINS = 10
BATCH_ROWS = 8_192

Floats = npt.NDArray[np.float64]


@torch.inference_mode()
def predict_tasks(model: HSTU, sequences: UserSequences, targets: Ints) -> tuple[Ints, Floats]:
    """Probabilities of the tasks if the user met each target's item at that moment.

    Returns:
        The targets in ascending order, int64 [N], and float [N, T].
    """
    chosen, probabilities = [], []
    for batch in batched(target_windows(sequences, targets, model.config), BATCH_ROWS):
        rows = collate([_candidate_rows(sequences, window) for window in batch])
        hidden = model(rows)
        is_candidate = _candidate_mask(rows.layout.history_lengths, rows.layout.num_candidates)
        logits = model.task_logits(hidden[is_candidate.to(model.device)])
        probabilities.append(torch.sigmoid(logits).cpu().numpy())
        chosen += [window.targets for window in batch]
    order = np.argsort(np.concatenate(chosen))
    return np.concatenate(chosen)[order], np.concatenate(probabilities)[order].astype(np.float64)


def evaluate_tasks(
    model: HSTU, sequences: UserSequences, targets: Ints, *, base_rates: Floats
) -> dict[str, dict[str, Any]]:
    """Metrics of each task over the targets whose label is known and whose item is too.

    Args:
        model, sequences: the model and all events in its indices.
        targets: int64 [N], indices of events.
        base_rates: float [T], share of positives in the training period: a constant prediction
            to measure the log loss against.

    Returns:
        For each task: ``auc``, ``gauc`` (AUC within a user, weighted by events), ``log_loss``,
        ``normalized_entropy`` (log loss over that of the base rate; below 1 is better than
        knowing nothing), ``calibration`` (mean prediction over mean label), ``bins`` and
        ``events``. A metric that the labels do not allow (one class only) is None.
    """
    targets = targets[sequences.items[targets] != UNKNOWN]
    if not len(targets) or not model.config.tasks:
        return {}
    targets, probabilities = predict_tasks(model, sequences, targets)
    users = np.searchsorted(sequences.offsets, targets, side="right") - 1
    results = {}
    for task, name in enumerate(model.config.tasks):
        known = sequences.labels[targets, task] != NO_LABEL
        labels = sequences.labels[targets, task][known].astype(np.int64)
        scores = probabilities[known, task]
        results[name] = binary_metrics(labels, scores, users[known], float(base_rates[task]))
    return results


def binary_metrics(labels: Ints, scores: Floats, users: Ints, base_rate: float) -> dict[str, Any]:
    """Metrics of one task; see `evaluate_tasks`."""
    from sklearn.metrics import log_loss, roc_auc_score

    if not len(labels):
        return {"events": 0}
    both = 0 < labels.sum() < len(labels)
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    constant = np.full(len(labels), np.clip(base_rate, 1e-7, 1 - 1e-7))
    loss = float(log_loss(labels, clipped, labels=[0, 1]))
    mean = float(labels.mean())
    return {
        "events": len(labels),
        "positive_rate": mean,
        "auc": float(roc_auc_score(labels, scores)) if both else None,
        "gauc": grouped_auc(labels, scores, users),
        "log_loss": loss,
        "normalized_entropy": loss / float(log_loss(labels, constant, labels=[0, 1])),
        "calibration": float(scores.mean()) / mean if mean else None,
        "bins": calibration_bins(labels, scores),
    }


def grouped_auc(labels: Ints, scores: Floats, users: Ints) -> float | None:
    """AUC within each user who has both labels, weighted by events; None if there is none."""
    from sklearn.metrics import roc_auc_score

    total, weight = 0.0, 0
    order = np.argsort(users, kind="stable")
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    for group in np.split(order, starts[1:]):
        own = labels[group]
        if 0 < own.sum() < len(own):
            total += float(roc_auc_score(own, scores[group])) * len(own)
            weight += len(own)
    return total / weight if weight else None


def calibration_bins(labels: Ints, scores: Floats) -> list[dict[str, float]]:
    """Mean prediction and share of positives in bins of equally many events."""
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, CALIBRATION_BINS) if len(part)]
    return [
        {
            "predicted": float(scores[part].mean()),
            "observed": float(labels[part].mean()),
            "events": float(len(part)),
        }
        for part in bins
    ]


def base_rates(sequences: UserSequences, before: int) -> Floats:
    """float [T], share of positives among the labels known before a time; 0.5 without any."""
    known = (sequences.labels != NO_LABEL) & (sequences.known_at < before)
    positives = ((sequences.labels == 1) & known).sum(0)
    counts = known.sum(0)
    rates: Floats = np.where(counts > 0, positives / np.maximum(counts, 1), 0.5)
    return rates


def _candidate_rows(sequences: UserSequences, window: TargetWindow) -> UserRows:
    """A window's history, and its targets as candidates that see what came before them."""
    history = window_rows(sequences, window)
    return UserRows(
        items=history.items,
        actions=history.actions,
        timestamps=history.timestamps,
        candidates=sequences.items[window.targets],
        candidate_times=sequences.timestamps[window.targets],
        candidate_positions=window.targets - window.first + 1,
    )


def _candidate_mask(history_lengths: torch.Tensor, num_candidates: torch.Tensor) -> torch.Tensor:
    pairs = torch.stack([history_lengths, num_candidates], dim=1).flatten()
    return torch.tensor([False, True]).repeat(len(history_lengths)).repeat_interleave(pairs)
