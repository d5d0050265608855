"""Memory goes where it saves more, within bounds, and stays where nothing is to be gained."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_cache.memory_split import Dropped, Split, SplitSettings, SplitTuner

SETTINGS = SplitSettings(step=10, least_kv=20, least_rows=15)
SAVINGS = st.floats(0, 1e6)


@given(st.lists(st.tuples(SAVINGS, SAVINGS), max_size=80))
def test_the_sum_stays_and_bounds_hold(savings: list[tuple[float, float]]) -> None:
    tuner = SplitTuner(Split(kv=50, rows=50), SETTINGS)
    for kv, rows in savings:
        before = tuner.split
        after = tuner.update(kv_saves=kv, rows_save=rows)
        assert after.kv + after.rows == 100
        assert after.kv >= 20
        assert after.rows >= 15
        assert abs(after.kv - before.kv) <= 10
        if after.kv > before.kv:
            assert kv > rows
        if after.kv < before.kv:
            assert kv < rows


def test_it_settles_where_both_save_the_same(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tuner = SplitTuner(Split(kv=100, rows=900), SplitSettings(step=20, least_kv=0, least_rows=0))
    seen = []
    for _ in range(200):
        # Each side's next bytes save less the more it has: equal at 400 and 600.
        seen.append(tuner.update(kv_saves=400 / tuner.split.kv, rows_save=600 / tuner.split.rows))
    assert 350 <= seen[-1].kv <= 450
    assert len({split.kv for split in seen[-60:]}) == 1
    assert "go to keys and values: a step would have saved" in caplog.text


def test_one_good_interval_moves_nothing() -> None:
    tuner = SplitTuner(Split(kv=50, rows=50), SETTINGS)
    for _ in range(10):
        tuner.update(kv_saves=9, rows_save=1)
        tuner.update(kv_saves=9, rows_save=1)
        assert tuner.update(kv_saves=1, rows_save=1) == Split(kv=50, rows=50)


def test_what_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="less than its bound"):
        SplitTuner(Split(kv=19, rows=50), SETTINGS)
    tuner = SplitTuner(Split(kv=50, rows=50), SETTINGS)
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="at least 0 ms"):
            tuner.update(kv_saves=wrong, rows_save=1)
    for change in ({"step": 0}, {"least_kv": -1}, {"lead": 0.9}, {"patience": 0}):
        with pytest.raises(ValueError, match=r"must|no bound"):
            SplitSettings(**({"step": 1, "least_kv": 0, "least_rows": 0} | change))


def test_what_was_dropped_last_and_asked_for_again_is_counted_once() -> None:
    dropped = Dropped(3)
    dropped.drop("abcd")
    dropped.ask("abbd")
    assert dropped.take_missed() == 2
    assert dropped.take_missed() == 0
    dropped.drop("b")
    dropped.ask("cb")
    assert dropped.take_missed() == 2
