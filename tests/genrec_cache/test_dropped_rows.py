"""What was dropped last and is asked for again would have been a hit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec_cache.dropped_rows import DroppedRows
from genrec_cache.embedding_cache import CachedTable
from genrec_cache.memory_split import Dropped
from genrec_cache.miss_time import time_of_miss


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_each_is_counted_once_and_old_ones_are_forgotten() -> None:
    dropped = DroppedRows(10, 3)
    dropped.drop(ids(0, 1, 2, 3))
    dropped.ask(ids(0, 1, 5))
    dropped.ask(ids(1))
    assert dropped.take_missed() == 1
    assert dropped.take_missed() == 0
    dropped.grow(12)
    dropped.drop(ids(11))
    dropped.ask(ids(11, 9))
    assert dropped.take_missed() == 1


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 19), max_size=6)), max_size=40))
def test_it_counts_what_the_one_for_single_keys_counts(
    calls: list[tuple[bool, set[int]]],
) -> None:
    """With room for all; with less, an id that is dropped twice takes two places here."""
    fast, plain = DroppedRows(20, 1000), Dropped(1000)
    for drop, some in calls:
        keys = sorted(some)
        if drop:
            fast.drop(ids(*keys))
            plain.drop(keys)
        else:
            fast.ask(ids(*keys))
            plain.ask(keys)
    assert fast.take_missed() == plain.take_missed()


def test_a_table_says_what_more_slots_would_have_brought() -> None:
    rng = np.random.default_rng(0)
    stream = np.minimum(rng.zipf(1.3, (300, 64)) - 1, 999).astype(np.int64)

    def missed(extra: int) -> int:
        table = CachedTable(torch.rand(1000, 2), 20)
        table.watch_dropped(extra)
        for batch in stream:
            table.lookup(torch.from_numpy(batch))
        return table.take_missed()

    def unique_hits(slots: int) -> int:
        table = CachedTable(torch.rand(1000, 2), slots)
        for batch in stream:
            table.lookup(torch.from_numpy(batch))
        return table.stats.unique_hits

    # Less than the policy makes of as many slots more, and not nothing.
    gained = unique_hits(60) - unique_hits(20)
    assert 0.2 * gained < missed(40) <= 1.1 * gained
    assert missed(200) > missed(40) > missed(5)


def test_a_table_that_is_not_watched_says_nothing() -> None:
    table = CachedTable(torch.rand(50, 2), 5)
    for start in range(0, 40, 10):
        table.lookup(torch.arange(start, start + 10))
    assert table.take_missed() == 0


def test_the_time_of_a_miss_is_measured_and_not_counted() -> None:
    table = CachedTable(torch.rand(500, 8), 50)
    assert time_of_miss(table) == 0.0  # nothing is in a slot
    table.warm(np.arange(500))
    assert 0.0 <= time_of_miss(table, 64) < 1.0
    assert table.stats.lookups == 0
    everything = CachedTable(torch.rand(9, 2), 9)
    everything.warm(np.arange(1, 10))
    assert time_of_miss(everything) == pytest.approx(0.0)  # nothing is outside
