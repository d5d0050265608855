"""Rows that are brought in because they often follow: what that gains, and where it must not lose.

Streams are made for it.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_cache.access_policy import AccessSettings, access_counts
from genrec_cache.bench import association
from genrec_cache.successors import chance_to_follow, no_successors, note_access

ALONE = AccessSettings(followers=0)
MEMORY, LEAST = 0.95, 0.1


def pairs(count: int, *, kinds: int = 500, seed: int = 0) -> np.ndarray:
    """Any of many items, and always the same one a little later: 2 `count` ids."""
    first = np.random.default_rng(seed).integers(0, kinds, count)
    return np.stack([first, first + kinds], axis=1).reshape(-1).astype(np.int64)


def test_of_pairs_the_second_is_there_in_time() -> None:
    stream = pairs(20_000)
    alone, found = (access_counts(stream, 1000, 50, s) for s in (ALONE, None))
    assert alone.prefetched == alone.in_time == 0
    # By chance one access in twenty hits; nearly all second ones do once the pairs are known.
    assert alone.hits < 0.06 * len(stream)
    assert found.hits > 0.45 * len(stream)
    assert found.in_time > 0.8 * found.prefetched > 0.35 * len(stream)
    assert found.copies >= found.prefetched


def test_copies_are_all_rows_that_come_in() -> None:
    stream = pairs(5_000)
    found = access_counts(stream, 1000, 1000)
    # Room for all: each comes once, when it is asked for.
    assert found.copies == len(np.unique(stream))
    assert found.hits == len(stream) - found.copies
    assert found.prefetched == 0


def test_where_nothing_recurs_nothing_is_brought_in() -> None:
    rng = np.random.default_rng(1)
    for stream in (
        rng.integers(0, 1000, 40_000),
        np.minimum(rng.zipf(1.2, 40_000) - 1, 999),
        np.arange(40_000) % 1000,
    ):
        alone, found = (access_counts(stream, 1000, 100, s) for s in (ALONE, None))
        if stream[1] == stream[0] + 1:
            # A loop larger than the cache: every follower is certain, and all of them are missed.
            assert found.hits > 0.9 * len(stream) > alone.hits
        else:
            assert found.hits >= alone.hits - 0.002 * len(stream)
            assert found.prefetched < 0.05 * len(stream)


def test_pairs_that_do_not_come_again_are_not_trusted() -> None:
    # Each pair twice only, far apart: what was seen once never helps, and soon is not acted on.
    rng = np.random.default_rng(2)
    stream = rng.permutation(30_000)
    stream = np.concatenate([stream, rng.permutation(30_000)])
    found = access_counts(stream, 30_000, 300)
    assert found.prefetched <= 0.002 * len(stream)


def test_the_ends() -> None:
    stream = pairs(3_000, kinds=5)
    assert access_counts(stream, 10, 0).copies == 0
    one = access_counts(stream, 10, 1)
    # A single slot: whatever is in it, no hit that was not copied before.
    assert 0 < one.hits <= one.copies + len(stream) - 1
    assert access_counts(stream[:0], 10, 3).hits == 0
    for wrong in (-1, 10):
        with pytest.raises(IndexError, match="catalogue of 10"):
            access_counts(np.append(stream, wrong), 10, 3)


def test_the_same_stream_gives_the_same_counts() -> None:
    stream = pairs(10_000, seed=3)
    assert access_counts(stream, 1000, 40) == access_counts(stream, 1000, 40)


@settings(max_examples=30, deadline=None)
@given(
    stream=st.lists(st.integers(0, 11), max_size=200),
    capacity=st.integers(1, 14),
    followers=st.integers(0, 3),
    window=st.integers(1, 5),
)
def test_counts_agree_with_one_another(
    stream: list[int], capacity: int, followers: int, window: int
) -> None:
    chosen = AccessSettings(min_step=16, followers=followers, window=window, least_chance=0.01)
    found = access_counts(np.array(stream, np.int64), 12, capacity, chosen)
    assert 0 <= found.hits <= max(0, len(stream) - 1)
    assert found.in_time <= min(found.prefetched, found.hits)
    # Each miss brings in one row at most, and each of the others was expected.
    assert found.copies - found.prefetched <= len(stream) - found.hits


def test_only_what_follows_within_the_window_is_a_follower() -> None:
    known = no_successors(6, followers=2, window=2)
    last = np.full(6, -1, np.int64)
    for now, item in enumerate((0, 1, 2, 3)):
        note_access(known, item, now, last, MEMORY)
        last[item] = now
    assert known.followers[:4].tolist() == [[1, 2], [2, 3], [3, -1], [-1, -1]]
    # A repeat within the window is one sighting.
    for now, item in enumerate((4, 5, 5), start=4):
        note_access(known, item, now, last, MEMORY)
        last[item] = now
    assert known.followers[4].tolist() == [5, -1]
    assert known.sightings[4].tolist() == [1.0, 0.0]


def test_the_weakest_follower_gives_way_once_it_is_weak() -> None:
    known = no_successors(4, followers=1, window=1)
    last = np.full(4, -1, np.int64)
    followers = []
    for now, item in enumerate((0, 1, 0, 2, 0, 3, 0, 2, 0, 2)):
        note_access(known, item, now, last, 1.0)
        last[item] = now
        followers.append(int(known.followers[0, 0]))
    # Each newcomer takes a quarter of a sighting; below a half the next one gets the place.
    assert followers == [-1, 1, 1, 1, 1, 1, 1, 1, 1, 2]


def test_a_guess_is_worth_what_guesses_like_it_were() -> None:
    known = no_successors(2, followers=1, window=1)
    last = np.full(2, -1, np.int64)
    chances = []
    for now in range(400):
        item = now % 2
        note_access(known, item, now, last, MEMORY)
        last[item] = now
        if item == 0 and known.followers[0, 0] == 1:
            chances.append(chance_to_follow(known, 0, 0, now, 0.999, LEAST))
    # Doubted at first, then nearly certain.
    assert chances[0] == 0.0
    assert chances[-1] > 0.85
    # It stops to follow: each trial that fails lowers the chance.
    before = chance_to_follow(known, 0, 0, 400, 0.999, LEAST)
    for now in range(402, 900, 2):
        after = chance_to_follow(known, 0, 0, now, 0.999, LEAST)
        assert after < before
        before = after
    assert before < 0.5


def test_a_small_guess_is_not_tried() -> None:
    known = no_successors(2, followers=1, window=1)
    known.followers[0, 0], known.sightings[0, 0], known.uses[0] = 1, 1.0, 30.0
    assert chance_to_follow(known, 0, 0, 5, 0.999, LEAST) == 0.0
    assert known.tried.sum() == 0
    assert known.due[1] == -1


def test_the_benchmark_writes_what_it_measured(tmp_path: Path) -> None:
    stream = pairs(3_000, kinds=60)
    events = tmp_path / "events.parquet"
    shuffled = np.random.default_rng(0).permutation(len(stream))
    pl.DataFrame({"thing": stream[shuffled] + 7, "when": shuffled}).write_parquet(events)
    records = tmp_path / "association.csv"
    options = ["--dataset", "pairs", "--events", str(events), "--item", "thing", "--sort", "when"]
    association.main([*options, "--commit", "abc", "--records", str(records)])
    with records.open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["least_chance"]) for row in rows] == [0.1, *association.LEAST_CHANCES]
    assert [row["followers"] for row in rows] == ["0", *["8"] * len(association.LEAST_CHANCES)]
    expected = access_counts(stream, 120, 12, ALONE)
    assert float(rows[0]["hit_rate"]) == pytest.approx(expected.hits / len(stream), abs=1e-4)
    assert float(rows[0]["copies"]) == pytest.approx(expected.copies / len(stream), abs=1e-4)
    assert float(rows[1]["hit_rate"]) > float(rows[0]["hit_rate"])
