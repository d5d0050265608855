"""Rows that are expected come first; whether that pays depends on the expectation."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_cache.prefetch_replay import prefetch_hits
from genrec_cache.replay import batch_hits

NOTHING = np.empty(0, np.int64)


def batches(count: int = 60) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        np.unique(np.minimum(rng.zipf(1.3, 30) - 1, 199)).astype(np.int64) for _ in range(count)
    ]


def test_without_expectations_it_is_the_policy() -> None:
    some, none = batches(), np.zeros(200, np.int64)
    for look_ahead, policy in ((False, "genrec"), (True, "genrec-lookahead")):
        ours = prefetch_hits(some, [NOTHING] * 60, none, 20, look_ahead=look_ahead)
        assert ours == batch_hits(some, 200, 20, policy=policy)


def test_who_knows_the_next_batch_gains_what_the_queue_does() -> None:
    some, none = batches(), np.zeros(200, np.int64)
    known = [*some[1:], NOTHING]
    told = prefetch_hits(some, known, none, 40, look_ahead=False)
    queue = prefetch_hits(some, [NOTHING] * 60, none, 40, look_ahead=True)
    assert told == queue
    assert told.unique_hit_rate > batch_hits(some, 200, 40, policy="genrec").unique_hit_rate


def test_wrong_expectations_cost_hits_and_copies() -> None:
    some, none = batches(), np.zeros(200, np.int64)
    rng = np.random.default_rng(1)
    wrong = [rng.integers(150, 200, 10) for _ in some]
    told = prefetch_hits(some, wrong, none, 20, look_ahead=False)
    alone = prefetch_hits(some, [NOTHING] * 60, none, 20, look_ahead=False)
    assert told.unique_hit_rate < alone.unique_hit_rate
    assert told.copies_per_batch > alone.copies_per_batch


def test_what_does_not_fit_is_refused() -> None:
    for some in ([], batches(3)):
        with pytest.raises(ValueError, match="predictions"):
            prefetch_hits(some, [NOTHING], np.zeros(200, np.int64), 5, look_ahead=False)
