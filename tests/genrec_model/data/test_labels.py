"""Labels: by hand, at the edges, and against a slow and obvious twin."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_model.data.labels import label_events
from genrec_model.data.spec import DatasetSpec, TaskName, TaskRule, TaskSpec

Row = tuple[int, int, int, str, float]


def spec_of(rule: TaskRule, name: TaskName = "retention") -> DatasetSpec:
    others = {"engagement", "retention", "monetization"} - {name}
    return DatasetSpec(
        name="hand",
        title="by hand",
        actions=("buy", "back"),
        tasks=(TaskSpec(name=name, rule=rule, description=""),),
        unlabelled=dict.fromkeys(sorted(others), "not here"),
        exclude_seen=False,
        value_unit="pounds",
        licence="none",
    )


def events_of(rows: list[Row]) -> pl.DataFrame:
    schema: dict[str, Any] = {
        "user_id": pl.Int64,
        "item_id": pl.Int64,
        "timestamp": pl.Int64,
        "action": pl.String,
        "value": pl.Float32,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def labels_of(rows: list[Row], rule: TaskRule) -> list[tuple[int | None, int | None]]:
    labelled = label_events(events_of(rows), spec_of(rule))
    assert labelled.schema["label_retention"] == pl.Int8
    assert labelled.schema["known_at_retention"] == pl.Int64
    return list(zip(labelled["label_retention"], labelled["known_at_retention"], strict=True))


def test_value_is_known_at_once() -> None:
    rows: list[Row] = [(1, 1, 10, "buy", 4.0), (1, 2, 20, "buy", 3.9)]
    assert labels_of(rows, TaskRule(kind="value_at_least", threshold=4.0)) == [(1, 10), (0, 20)]


def test_a_threshold_that_float32_rounds_is_still_reached() -> None:
    rows: list[Row] = [(1, 1, 10, "buy", 0.1)]
    assert labels_of(rows, TaskRule(kind="value_at_least", threshold=0.1)) == [(1, 10)]


def test_action_is_known_at_once() -> None:
    rows: list[Row] = [(1, 1, 10, "buy", 1.0), (1, 2, 20, "back", 1.0)]
    assert labels_of(rows, TaskRule(kind="action_in", actions=("back",))) == [(0, 10), (1, 20)]


def test_other_actions_are_not_asked() -> None:
    rows: list[Row] = [(1, 1, 10, "buy", 20.0), (1, 1, 20, "back", -20.0)]
    rule = TaskRule(kind="spend_at_least", threshold=15.0, actions=("buy",))
    assert labels_of(rows, rule) == [(1, 10), (None, None)]


def test_return_and_absence_are_known_when_the_horizon_has_passed() -> None:
    rule = TaskRule(kind="returns_within", min_gap_s=10, horizon_s=100)
    rows: list[Row] = [
        (1, 1, 0, "buy", 1.0),  # 5 is too soon, 100 is the last moment
        (1, 2, 5, "buy", 1.0),  # 100 is 95 later
        (1, 3, 100, "buy", 1.0),  # nobody comes back by 200
        (2, 1, 150, "buy", 1.0),  # the data end at 201, before 250: censored, though back by then
        (2, 1, 201, "buy", 1.0),  # censored
    ]
    expected = [(1, 100), (1, 105), (0, 200), (None, None), (None, None)]
    assert labels_of(rows, rule) == expected


def test_absence_is_known_when_the_data_end_exactly_at_the_horizon() -> None:
    rule = TaskRule(kind="returns_within", min_gap_s=1, horizon_s=100)
    rows: list[Row] = [(1, 1, 0, "buy", 1.0), (2, 1, 100, "buy", 1.0)]
    assert labels_of(rows, rule) == [(0, 100), (None, None)]
    rows[1] = (2, 1, 99, "buy", 1.0)
    assert labels_of(rows, rule) == [(None, None), (None, None)]


def test_lines_of_one_invoice_are_no_repeats_of_each_other() -> None:
    rule = TaskRule(kind="repeats_item_within", min_gap_s=1, horizon_s=50)
    rows: list[Row] = [
        (1, 7, 0, "buy", 1.0),
        (1, 7, 0, "buy", 1.0),
        (1, 8, 0, "buy", 1.0),
        (1, 7, 40, "buy", 1.0),
        (2, 8, 90, "buy", 1.0),
    ]
    assert labels_of(rows, rule) == [(1, 50), (1, 50), (0, 50), (0, 90), (None, None)]


def test_a_refund_is_no_repeat() -> None:
    rule = TaskRule(kind="repeats_item_within", min_gap_s=1, horizon_s=50, actions=("buy",))
    rows: list[Row] = [(1, 7, 0, "buy", 1.0), (1, 7, 9, "back", -1.0), (2, 7, 99, "buy", 1.0)]
    assert labels_of(rows, rule) == [(0, 50), (None, None), (None, None)]


def test_no_rows() -> None:
    rule = TaskRule(kind="returns_within", min_gap_s=1, horizon_s=50)
    assert labels_of([], rule) == []


def test_text_ids() -> None:
    rule = TaskRule(kind="returns_within", min_gap_s=1, horizon_s=50)
    frame = events_of([(1, 7, 0, "buy", 1.0), (1, 7, 9, "buy", 1.0), (2, 7, 99, "buy", 1.0)])
    text = frame.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    labelled = label_events(text, spec_of(rule))
    assert labelled["label_retention"].to_list() == [1, 0, None]


def slow_label(rows: list[Row], rule: TaskRule) -> list[tuple[int | None, int | None]]:
    """The definition, word by word."""
    assert rule.min_gap_s is not None
    assert rule.horizon_s is not None
    end = max(row[2] for row in rows)
    answers: list[tuple[int | None, int | None]] = []
    for user, item, at, action, _ in rows:
        times = [
            other[2]
            for other in rows
            if other[0] == user
            and (rule.kind == "returns_within" or other[1] == item)
            and (not rule.actions or other[3] in rule.actions)
            and at + rule.min_gap_s <= other[2] <= at + rule.horizon_s
        ]
        if rule.actions and action not in rule.actions:
            answers.append((None, None))
        else:
            passed = at + rule.horizon_s <= end
            answers.append((int(bool(times)), at + rule.horizon_s) if passed else (None, None))
    return answers


ROW = st.tuples(
    st.integers(-2, 3), st.integers(0, 3), st.integers(0, 60), st.sampled_from(["buy", "back"])
)


@given(
    rows=st.lists(ROW, min_size=1, max_size=40),
    kind=st.sampled_from(["returns_within", "repeats_item_within"]),
    gap=st.integers(1, 20),
    more=st.integers(0, 30),
    actions=st.sampled_from([(), ("buy",), ("buy", "back")]),
)
def test_equals_the_slow_twin(
    rows: list[tuple[int, int, int, str]], kind: Any, gap: int, more: int, actions: tuple[str, ...]
) -> None:
    full: list[Row] = [(*row, 1.0) for row in rows]
    rule = TaskRule(kind=kind, min_gap_s=gap, horizon_s=gap + more, actions=actions)
    assert labels_of(full, rule) == slow_label(full, rule)


@given(rows=st.lists(ROW, min_size=2, max_size=40), cut=st.integers(0, 60))
def test_a_known_label_does_not_depend_on_later_data(
    rows: list[tuple[int, int, int, str]], cut: int
) -> None:
    """What is said to be known at a moment follows from the events up to that moment."""
    rule = TaskRule(kind="returns_within", min_gap_s=3, horizon_s=15)
    full: list[Row] = [(*row, 1.0) for row in rows]
    # Somebody acts at the cut, so that the shortened data reach up to it.
    past: list[Row] = [row for row in full if row[2] <= cut] + [(99, 0, cut, "buy", 1.0)]
    now: list[Row] = [*full, past[-1]]
    in_past = dict(zip(past, labels_of(past, rule), strict=True))
    for row, (label, known_at) in zip(now, labels_of(now, rule), strict=True):
        if known_at is not None and known_at <= cut:
            assert in_past[row] == (label, known_at)


def test_rows_keep_their_order_and_columns() -> None:
    frame = events_of([(2, 7, 50, "buy", 1.0), (1, 7, 9, "buy", 1.0)])
    labelled = label_events(frame, spec_of(TaskRule(kind="value_at_least", threshold=1.0)))
    assert labelled.select(frame.columns).equals(frame)
    assert "label_engagement" not in labelled.columns


@pytest.mark.parametrize("kind", ["returns_within", "repeats_item_within"])
def test_nobody_with_the_action_asked_about(kind: Any) -> None:
    rule = TaskRule(kind=kind, min_gap_s=1, horizon_s=5, actions=("buy",))
    assert labels_of([(1, 1, 1, "back", 1.0)], rule) == [(None, None)]
