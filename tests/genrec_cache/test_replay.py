"""Replays: known answers, and what the policies reach on real data."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_cache.replay import BATCH_POLICIES, POLICIES, batch_hits, hit_rate, replay
from genrec_cache.requests import RequestRule, request_batches


def batches(*texts: str) -> list[np.ndarray]:
    return [np.array(sorted({ord(c) - ord("a") for c in text}), np.int64) for text in texts]


@pytest.mark.parametrize("policy", BATCH_POLICIES)
def test_with_room_for_all_only_first_uses_miss(policy: str) -> None:
    stream = batches("abc", "abcd", "ad")
    found = batch_hits(stream, 4, 4, policy=policy)
    # Told of the next batch, even d is there in time.
    hits, copies = (6, 4 / 3) if policy == "genrec-lookahead" else (5, 4 / 3)
    # A queue with a part on trial may drop what would fit: it has less room than slots.
    if policy not in ("s3fifo", "wtinylfu"):
        assert (found.unique_hit_rate, found.copies_per_batch) == pytest.approx((hits / 9, copies))


def test_batches_by_hand() -> None:
    stream = batches("ab", "ac", "ac", "ab")
    # The least recently used keeps a and the one of the last batch.
    found = batch_hits(stream, 3, 2, policy="lru")
    assert (found.unique_hit_rate, found.copies_per_batch) == pytest.approx((4 / 8, 4 / 4))
    # The optimum may take c for one hit, or keep b for one: residents win ties, sooner use wins.
    assert batch_hits(stream, 3, 2, policy="optimum").unique_hit_rate == pytest.approx(4 / 8)


def test_no_batch_policy_without_prefetch_beats_the_optimum() -> None:
    rng = np.random.default_rng(3)
    stream = [np.unique(np.minimum(rng.zipf(1.4, 60), 199)) for _ in range(60)]
    for capacity in (1, 7, 30):
        best = batch_hits(stream, 200, capacity, policy="optimum").unique_hit_rate
        for policy in set(BATCH_POLICIES) - {"genrec-lookahead"}:
            assert batch_hits(stream, 200, capacity, policy=policy).unique_hit_rate <= best


@pytest.mark.parametrize("policy", POLICIES)
def test_one_item_again_and_again_misses_once(policy: str) -> None:
    assert hit_rate(np.zeros(50, np.int64), 3, 1, policy=policy) == 49 / 50


def test_rows_leave_out_what_there_is_not() -> None:
    stream = np.array([0, 1, 0], np.int64)
    row = replay(stream, [], 2, policy="lru", size=1.0)
    assert (row.hit_rate, row.unique_hit_rate) == (1 / 3, None)
    row = replay(stream, batches("ab"), 2, policy="decayed-lfu", size=0.5)
    assert (row.hit_rate, row.unique_hit_rate, row.copies_per_batch) == (None, 0.0, 1.0)


def test_what_cannot_be_replayed_is_refused() -> None:
    stream = np.array([0, 1], np.int64)
    with pytest.raises(ValueError, match="unknown: use one of genrec"):
        hit_rate(stream, 2, 1, policy="fifo")
    with pytest.raises(ValueError, match="unknown: use one of genrec"):
        batch_hits(batches("ab"), 2, 1, policy="fifo")
    with pytest.raises(ValueError, match="no hit rate"):
        hit_rate(stream[:0], 2, 1, policy="lru")
    with pytest.raises(ValueError, match="nothing to replay"):
        batch_hits([], 2, 1, policy="lru")
    with pytest.raises(ValueError, match="holds nothing"):
        replay(stream, [], 2, policy="lru", size=0.0)


def test_a_request_sees_the_past_and_not_its_own_event() -> None:
    users = np.array([0, 1, 0, 0, 1])
    items = np.array([5, 6, 7, 8, 9])
    times = np.array([1, 1, 2, 2, 3])
    rule = RequestRule(histories=1, events=2)
    found = [batch.tolist() for batch in request_batches(users, items, times, rule)]
    assert found == [[5], [5, 7], [6]]
    rule = RequestRule(histories=2, once_per_moment=True)
    assert [b.tolist() for b in request_batches(users, items, times, rule)] == [[5, 6]]
    with pytest.raises(ValueError, match="share"):
        RequestRule(share=0.0)
