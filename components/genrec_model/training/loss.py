"""The two objectives: which item comes next, and what the user does with a candidate."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_model.features.reserved import NUM_RESERVED
from genrec_model.hstu import HSTU
from genrec_model.training.windows import TrainingBatch


class Losses(NamedTuple):
    """Scalars, in nats."""

    next_item: Tensor
    tasks: Tensor


def losses(model: HSTU, batch: TrainingBatch, *, num_negatives: int) -> Losses:
    """Mean cross-entropy of the next item, and mean binary cross-entropy of the known labels."""
    hidden = model(batch.rows)
    user = model.user_embedding(hidden.index_select(0, batch.next_rows))
    if num_negatives:
        next_item = sampled_softmax(model, user, batch.next_items, num_negatives)
    else:
        next_item = F.cross_entropy(model.catalogue_scores(user), batch.next_items)
    logits = model.task_logits(hidden.index_select(0, batch.task_rows))
    entropy = F.binary_cross_entropy_with_logits(
        logits, batch.labels.clamp(min=0), reduction="none"
    )
    tasks = (entropy * batch.known).sum() / batch.known.sum().clamp(min=1)
    return Losses(next_item, tasks)


def sampled_softmax(model: HSTU, user: Tensor, targets: Tensor, num_negatives: int) -> Tensor:
    """Cross-entropy against uniform negatives that the batch shares.

    Args:
        user: float [P, W], unit vectors.
        targets: int64 [P].
        num_negatives: at least 1. A negative that is a row's own target does not count there.
    """
    negatives = torch.randint(
        NUM_RESERVED, model.config.num_items, (num_negatives,), device=user.device
    )
    wanted = model.user_embedding(model.item_embedding(targets))
    others = model.user_embedding(model.item_embedding(negatives))
    positive = (user * wanted).sum(-1, keepdim=True)
    negative = (user @ others.T).masked_fill(targets[:, None] == negatives, -torch.inf)
    logits = torch.cat([positive, negative], dim=1) / model.config.temperature
    return F.cross_entropy(logits, torch.zeros_like(targets))
