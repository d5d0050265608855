"""Golden requests: real histories with the answers that plain PyTorch gives.

They travel in the artifact. Whoever serves it, on whatever engine, can be held against them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from genrec_model.artifact import Artifact
from genrec_model.features.prepare import Features
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS, UNKNOWN
from genrec_model.features.rows import Ints, collate, history_rows, window_start, with_candidates
from genrec_model.hstu import HSTU


@torch.inference_mode()
def recommend_offline(
    model: HSTU,
    items: Ints,
    actions: Ints,
    timestamps: Ints,
    *,
    now: int,
    k: int,
    exclude_seen: bool,
) -> tuple[Ints, torch.Tensor, torch.Tensor]:
    """Top-k of one history that is already cut: indices, next-item logits, task probabilities.

    Returns:
        int64 [k], float [k], float [k, T].
    """
    history = history_rows(items, actions, timestamps, now=now)
    user = model.score(collate([history]))[0].user
    scores = model.catalogue_scores(user)
    if exclude_seen:
        scores[torch.from_numpy(items)] = -torch.inf
    top = scores.topk(min(k, int(scores.isfinite().sum())))
    chosen = top.indices.numpy()
    ranked = model.score(collate([with_candidates(history, chosen, now=now)]))[0]
    return chosen, top.values, torch.sigmoid(ranked.tasks)


def golden_requests(
    artifact: Artifact, features: Features, *, users: int, k: int = 10, seed: int = 0
) -> list[dict[str, Any]]:
    """Requests of users of the test period, at the moment of their last event.

    Only the part of a history that the model sees is kept; events whose item or action the model
    does not know are left out, as a client would.
    """
    model, config, spec = artifact.load_model(), artifact.config, features.dataset.spec
    vocabulary = artifact.vocabulary
    sequences = features.sequences(vocabulary)
    active = np.flatnonzero(
        np.diff(sequences.offsets) > sequences.before(features.dataset.split.test)
    )
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(active, min(users, len(active)), replace=False))
    golden = []
    for user in chosen.tolist():
        events = np.arange(sequences.offsets[user], sequences.offsets[user + 1])
        now = int(sequences.timestamps[events[-1]])
        events = events[:-1]
        events = events[(sequences.items[events] != UNKNOWN)]
        events = events[window_start(len(events), config.max_history, config.chunk_size) :]
        items, actions = sequences.items[events], sequences.actions[events]
        times = sequences.timestamps[events]
        top, scores, tasks = recommend_offline(
            model, items, actions, times, now=now, k=k, exclude_seen=spec.exclude_seen
        )
        names = [vocabulary.item_ids[i - NUM_RESERVED] for i in items.tolist()]
        known_actions = [vocabulary.actions[a - NUM_RESERVED_ACTIONS] for a in actions.tolist()]
        golden.append(
            {
                "user_id": sequences.users[user],
                "now": now,
                "k": k,
                "history": [
                    {"item_id": item, "action": action, "timestamp": time}
                    for item, action, time in zip(names, known_actions, times.tolist(), strict=True)
                ],
                "expected": {
                    "items": [vocabulary.item_ids[i - NUM_RESERVED] for i in top.tolist()],
                    "scores": scores.tolist(),
                    "tasks": {task: tasks[:, i].tolist() for i, task in enumerate(config.tasks)},
                },
            }
        )
    return golden
