"""HR, NDCG and MRR of next-item retrieval over the whole catalogue.

Letters in shapes: N targets, V rows of the item table, W hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from genrec_model.evaluation.windows import TargetWindow, batched, target_windows, window_rows
from genrec_model.features.reserved import NUM_RESERVED, UNKNOWN
from genrec_model.features.rows import Ints, Rows, collate
from genrec_model.features.sequences import UserSequences
from genrec_model.hstu import HSTU, HSTUConfig

CUTOFFS = (10, 50, 200)
#: Padded history rows of one batch.
BATCH_ROWS = 16_384

#: Next-item scores of the targets of one batch: float [N, V].
Scorer = Callable[[list[TargetWindow]], torch.Tensor]


@dataclass(frozen=True)
class RetrievalResult:
    """Ranks of the targets, from which every metric follows.

    targets: int64 [N], indices of events.
    ranks: float [N], 1 is best; infinite where the model does not know the item.
    """

    targets: Ints
    ranks: npt.NDArray[np.float64]

    @property
    def metrics(self) -> dict[str, float]:
        """``hr_K``, ``ndcg_K`` and ``mrr_K`` for each cutoff, and the number of ``targets``."""
        return rank_metrics(self.ranks)

    def slices(self, masks: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, dict[str, float]]:
        """The same metrics for parts of the targets."""
        return {name: rank_metrics(self.ranks[mask]) for name, mask in masks.items()}


def rank_metrics(ranks: npt.NDArray[np.float64]) -> dict[str, float]:
    """Metrics of one relevant item a target; all 0 where there is no target."""
    metrics: dict[str, float] = {"targets": float(len(ranks))}
    for cutoff in CUTOFFS:
        hit = ranks <= cutoff
        gain, reciprocal = np.zeros(len(ranks)), np.zeros(len(ranks))
        gain[hit] = 1.0 / np.log2(ranks[hit] + 1)
        reciprocal[hit] = 1.0 / ranks[hit]
        for name, values in (("hr", hit), ("ndcg", gain), ("mrr", reciprocal)):
            metrics[f"{name}_{cutoff}"] = float(values.mean()) if len(ranks) else 0.0
    return metrics


def retrieval_targets(
    sequences: UserSequences, *, start: int, stop: int, limit: int, seed: int
) -> Ints:
    """Events with a time in ``[start, stop)``: all of them, or a seeded sample of `limit`."""
    targets = np.flatnonzero((sequences.timestamps >= start) & (sequences.timestamps < stop))
    if len(targets) > limit:
        targets = np.sort(np.random.default_rng(seed).choice(targets, limit, replace=False))
    return targets


def evaluate_retrieval(
    model: HSTU,
    sequences: UserSequences,
    targets: Ints,
    *,
    exclude_seen: bool,
    run: Callable[[Rows], torch.Tensor] | None = None,
) -> RetrievalResult:
    """Rank each target's item after the history before it.

    Args:
        model: gives the embeddings.
        sequences: of all users.
        targets: indices of events.
        exclude_seen: as in `rank_targets`.
        run: what the layers are run by: rows to hidden rows [R, W]; None for the model itself.
    """
    run = run or model

    def score(windows: list[TargetWindow]) -> torch.Tensor:
        rows = collate([window_rows(sequences, window) for window in windows])
        offsets = rows.layout.offsets.tolist()
        at = [o + w.targets - w.first for o, w in zip(offsets, windows, strict=False)]
        places = torch.from_numpy(np.concatenate(at)).to(model.device)
        hidden = run(rows).index_select(0, places)
        return model.catalogue_scores(model.user_embedding(hidden)).cpu()

    windows = target_windows(sequences, targets, model.config)
    return rank_targets(sequences, windows, score, exclude_seen=exclude_seen)


def evaluate_popularity(
    config: HSTUConfig,
    sequences: UserSequences,
    targets: Ints,
    train_counts: Ints,
    *,
    exclude_seen: bool,
) -> RetrievalResult:
    """The same targets ranked by how often an item occurs in the training period.

    Args:
        config: shape of the model that is compared, for the same batches.
        sequences, targets, exclude_seen: as in `evaluate_retrieval`.
        train_counts: int64 [V], events of each item.
    """
    scores = torch.from_numpy(train_counts).to(torch.float32)
    scores[:NUM_RESERVED] = -torch.inf

    def score(windows: list[TargetWindow]) -> torch.Tensor:
        return scores.repeat(sum(len(window.targets) for window in windows), 1)

    windows = target_windows(sequences, targets, config)
    return rank_targets(sequences, windows, score, exclude_seen=exclude_seen)


@torch.inference_mode()
def rank_targets(
    sequences: UserSequences, windows: list[TargetWindow], score: Scorer, *, exclude_seen: bool
) -> RetrievalResult:
    """Rank of each target's item among all items, by `score`.

    With `exclude_seen`, items of any earlier event of the user are out of the running, unless
    the target is one. Items of equal score share the mean of their ranks.
    """
    all_targets, all_ranks = [], []
    for batch in batched(windows, BATCH_ROWS):
        targets = np.concatenate([window.targets for window in batch])
        items = torch.from_numpy(sequences.items[targets])
        scores = score(batch)
        own = scores.gather(1, items[:, None])
        if exclude_seen:
            rows, seen = _seen(sequences, targets)
            scores[rows, seen] = -torch.inf
        better = (scores > own).sum(1)
        equal = (scores == own).sum(1).clamp(min=1)
        ranks = better + (equal - 1) / 2 + 1
        ranks = torch.where(items == UNKNOWN, torch.inf, ranks.double())
        all_targets.append(targets)
        all_ranks.append(ranks.numpy())
    if not all_targets:
        return RetrievalResult(np.empty(0, np.int64), np.empty(0))
    targets = np.concatenate(all_targets)
    order = np.argsort(targets)
    return RetrievalResult(targets[order], np.concatenate(all_ranks)[order])


def _seen(sequences: UserSequences, targets: Ints) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of (row of the batch, item) that the user had before each target."""
    first = sequences.offsets[np.searchsorted(sequences.offsets, targets, side="right") - 1]
    lengths = targets - first
    rows = np.repeat(np.arange(len(targets)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    items = sequences.items[np.repeat(first, lengths) + within]
    return torch.from_numpy(rows), torch.from_numpy(items)
