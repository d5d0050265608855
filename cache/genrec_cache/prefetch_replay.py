"""Replays of visits with rows copied ahead that a model expects: does that pay for the copies?

After each batch the rows that its users' predictions name come before all others, as if they were
queued. They are swapped in for residents, as a cache has no more slots for it.

Letters in shapes: V ids, K unique ids of a batch, P predicted ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec_cache.policy import HotSetPolicy
from genrec_cache.replay import BatchHits

Ints = NDArray[np.int64]


def prefetch_hits(
    batches: Sequence[Ints],
    predicted: Sequence[Ints],
    popularity: Ints,
    capacity: int,
    *,
    look_ahead: bool,
) -> BatchHits:
    """Hits and copies of the project's policy, told of what a model expects.

    Args:
        batches: unique ids of each batch in order, each [K].
        predicted: ids expected after each batch, [P]; none where nothing is prefetched.
        popularity: uses before the first batch, [V].
        capacity: slots, at least 1.
        look_ahead: whether the next batch is queued, and so known.

    Raises:
        ValueError: there are no batches, or not as many predictions.
    """
    if not batches or len(batches) != len(predicted):
        raise ValueError(f"{len(batches)} batches with {len(predicted)} predictions")
    policy = HotSetPolicy(len(popularity), capacity)
    policy.warm(popularity)
    hits = copies = 0
    for number, used in enumerate(batches):
        hits += int(policy.resident[used].sum())
        ahead = np.unique(predicted[number])
        if look_ahead and number + 1 < len(batches):
            ahead = np.union1d(ahead, batches[number + 1])
        copies += len(policy.after_batch(used, ahead=ahead if len(ahead) else None).admit)
    unique = sum(map(len, batches))
    return BatchHits(unique_hit_rate=hits / unique, copies_per_batch=copies / len(batches))
