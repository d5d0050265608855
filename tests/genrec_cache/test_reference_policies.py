"""Policies of the literature on streams short enough to follow by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cache.optimum import next_uses, optimum_hits
from genrec_cache.reference_policies import LFU, LRU, REFERENCES, S3FIFO, Sieve, WTinyLFU
from genrec_cache.replay import POLICIES, hit_rate


def hits(policy: object, stream: str) -> str:
    return "".join("+" if policy.access(ord(item)) else "." for item in stream)  # type: ignore[attr-defined]


def test_lru_drops_the_one_used_longest_ago() -> None:
    assert hits(LRU(2), "abacab") == "..+.+."


def test_lfu_keeps_the_often_used_through_a_scan() -> None:
    assert hits(LFU(2), "aaabcdeab") == ".++....+."


def test_lfu_counts_outlive_a_stay() -> None:
    # c waits outside until it has as many uses as a; a, once out, still has its two and returns.
    policy = LFU(2)
    assert hits(policy, "aabbcbc") == ".+.+.+."
    assert ord("a") not in policy
    assert hits(policy, "aa") == ".+"


def test_sieve_spares_what_was_used_since_the_hand_passed() -> None:
    # d: the hand spares a (used) and takes b; e: it goes on from c, not from a.
    assert hits(Sieve(3), "abcadea") == "...+..+"
    assert hits(Sieve(3), "abcadec") == "...+..."


def test_s3fifo_lets_one_hit_wonders_go_and_remembers_them() -> None:
    policy = S3FIFO(10)
    assert hits(policy, "abcdefghij") == "." * 10
    assert hits(policy, "aaK") == "++."
    # a was used twice on trial and moved to the main queue; b left, remembered, and comes back.
    assert ord("a") in policy
    assert ord("b") not in policy
    assert hits(policy, "ba") == ".+"


def test_wtinylfu_admits_only_what_is_used_more_than_the_victim() -> None:
    assert hits(WTinyLFU(3), "aabbcdefgab") == ".+.+.....++"


@pytest.mark.parametrize("name", REFERENCES)
@given(stream=st.lists(st.integers(0, 9), max_size=200), capacity=st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_a_hit_is_what_was_resident_and_room_is_never_exceeded(
    name: str, stream: list[int], capacity: int
) -> None:
    policy = REFERENCES[name](capacity)
    for item in stream:
        before = item in policy
        assert policy.access(item) == before
        assert sum(other in policy for other in range(10)) <= capacity


@pytest.mark.parametrize("name", REFERENCES)
def test_a_cache_without_room_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="0 ids"):
        REFERENCES[name](0)


def test_next_uses() -> None:
    assert next_uses(np.array([3, 1, 3, 3, 1])).tolist() == [2, 4, 3, 5, 5]


def test_optimum_by_hand() -> None:
    # With two slots: keep a and b, let c and d pass.
    assert optimum_hits(np.array([0, 1, 2, 0, 3, 1, 0]), 2) == 3
    assert optimum_hits(np.array([0, 0]), 0) == 0


def most_hits(stream: tuple[int, ...], capacity: int, kept: frozenset[int] = frozenset()) -> int:
    if not stream:
        return 0
    item, rest = stream[0], stream[1:]
    if item in kept:
        return 1 + most_hits(rest, capacity, kept)
    choices = [most_hits(rest, capacity, kept)]
    if len(kept) < capacity:
        choices.append(most_hits(rest, capacity, kept | {item}))
    else:
        choices += [most_hits(rest, capacity, kept - {out} | {item}) for out in kept]
    return max(choices)


@given(stream=st.lists(st.integers(0, 4), max_size=9), capacity=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_optimum_is_what_trying_everything_finds(stream: list[int], capacity: int) -> None:
    assert optimum_hits(np.array(stream, np.int64), capacity) == most_hits(tuple(stream), capacity)


@given(stream=st.lists(st.integers(0, 19), min_size=1, max_size=300), capacity=st.integers(1, 25))
@settings(max_examples=30, deadline=None)
def test_no_policy_beats_the_optimum(stream: list[int], capacity: int) -> None:
    ids = np.array(stream, np.int64)
    best = hit_rate(ids, 20, capacity, policy="optimum")
    for policy in POLICIES:
        assert hit_rate(ids, 20, capacity, policy=policy) <= best
