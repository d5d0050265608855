"""How histories become rows: cut in chunks, started, collated."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genrec_model.features.reserved import NO_ACTION, START
from genrec_model.features.rows import collate, history_rows, window_start, with_candidates


@given(
    st.integers(0, 5000),
    st.integers(1, 300).flatmap(lambda m: st.tuples(st.just(m), st.integers(1, m))),
)
def test_a_history_is_cut_in_whole_chunks(events: int, sizes: tuple[int, int]) -> None:
    longest, chunk = sizes
    start = window_start(events, longest, chunk)
    assert 0 <= start <= events
    assert events - start <= longest
    assert start % chunk == 0 or start == events
    if events <= longest:
        assert start == 0
    else:  # nothing is cut that need not be
        assert events - start > longest - chunk


def test_the_start_moves_only_once_a_chunk() -> None:
    starts = [window_start(n, 47, 16) for n in range(47, 47 + 32)]
    assert starts == [0] + [16] * 16 + [32] * 15


def test_history_rows_of_nobody() -> None:
    none = np.empty(0, np.int64)
    rows = history_rows(none, none, none, now=77)
    assert rows.items.tolist() == [START]
    assert rows.actions.tolist() == [NO_ACTION]
    assert rows.timestamps.tolist() == [77]


def test_collate_lays_candidates_behind_their_history() -> None:
    first = with_candidates(
        history_rows(np.array([7, 8]), np.array([2, 3]), np.array([10, 20]), now=30),
        np.array([9]),
        now=30,
    )
    second = history_rows(np.array([5]), np.array([2]), np.array([40]), now=50)
    rows = collate([first, second])
    assert rows.items.tolist() == [START, 7, 8, 9, START, 5]
    assert rows.actions.tolist() == [0, 2, 3, 0, 0, 2]
    assert rows.timestamps.tolist() == [10, 10, 20, 30, 40, 40]
    assert rows.positions.tolist() == [0, 1, 2, 3, 0, 1]
    assert rows.layout.offsets.tolist() == [0, 4, 6]
    assert rows.layout.num_candidates.tolist() == [1, 0]
