"""Labels of the three tasks, each with the second at which it became known.

A label about the future is the easiest way to leak it: the answer to "did the user come back
within a week?" is not known at the event but up to a week later. So each label carries
``known_at_<task>``, and whoever trains up to a moment uses only labels known by then.

A yes may be known long before the horizon ends, a no never is. Were the yes used as soon as it is
known, the last weeks before that moment would hold hardly anything but yes. So both count as known
when the horizon has passed.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec_model.data.spec import DatasetSpec, TaskRule

Int64s = NDArray[np.int64]


def label_events(events: pl.DataFrame, spec: DatasetSpec) -> pl.DataFrame:
    """Add the labels of every task of ``spec``.

    Args:
        events: a checked event table, in any row order.
        spec: its specification.

    Returns:
        ``events``, in the same order, and for each task

        - ``label_<task>`` Int8: 1, 0, or null where the answer cannot be known: the rule does not
          ask about this action, or the data end before the horizon does;
        - ``known_at_<task>`` Int64: unix second when the label became known, null with the label.
    """
    columns: list[pl.Series] = []
    for task in spec.tasks:
        label, known_at = _label(events, task.rule)
        columns += [label.alias(f"label_{task.name}"), known_at.alias(f"known_at_{task.name}")]
    return events.with_columns(columns)


def _label(events: pl.DataFrame, rule: TaskRule) -> tuple[pl.Series, pl.Series]:
    if rule.kind == "action_in":
        return _at_once(events, pl.col("action").is_in(list(rule.actions)), asked=pl.lit(True))
    asked = pl.col("action").is_in(list(rule.actions)) if rule.actions else pl.lit(True)
    if rule.kind in ("value_at_least", "spend_at_least"):
        # Float32 on both sides, or a value stored as 0.1 would miss a threshold of 0.1.
        return _at_once(events, pl.col("value") >= pl.lit(rule.threshold, pl.Float32), asked=asked)
    groups = ("user_id",) if rule.kind == "returns_within" else ("user_id", "item_id")
    return _later(events, rule, groups=groups, asked=asked)


def _at_once(
    events: pl.DataFrame, holds: pl.Expr, *, asked: pl.Expr
) -> tuple[pl.Series, pl.Series]:
    answers = events.select(
        label=pl.when(asked).then(holds.cast(pl.Int8)),
        known_at=pl.when(asked).then(pl.col("timestamp")),
    )
    return answers["label"], answers["known_at"]


def _later(
    events: pl.DataFrame, rule: TaskRule, *, groups: tuple[str, ...], asked: pl.Expr
) -> tuple[pl.Series, pl.Series]:
    if rule.horizon_s is None or rule.min_gap_s is None:
        raise AssertionError("TaskRule checks that both are there")
    if events.height == 0:
        return pl.Series(dtype=pl.Int8), pl.Series(dtype=pl.Int64)

    columns = events.select(
        "timestamp",
        group=pl.struct(groups).rank("dense").cast(pl.Int64),
        asked=asked,
    )
    group, times = columns["group"].to_numpy(), columns["timestamp"].to_numpy()
    counts = columns["asked"].to_numpy()
    end = int(times.max())

    return_at = _first_at_or_after(
        group, times, among=counts, earliest=times + np.int64(rule.min_gap_s)
    )
    deadline = times + np.int64(rule.horizon_s)
    returned = (return_at >= 0) & (return_at <= deadline)
    known = (deadline <= end) & counts
    answers = pl.select(
        label=pl.when(pl.Series(known)).then(pl.Series(returned).cast(pl.Int8)),
        known_at=pl.when(pl.Series(known)).then(pl.Series(deadline)),
    )
    return answers["label"], answers["known_at"]


def _first_at_or_after(
    group: Int64s, times: Int64s, *, among: NDArray[np.bool_], earliest: Int64s
) -> Int64s:
    """Per row, the first time >= ``earliest`` of the row's group, or -1 if there is none.

    Group and time are packed into one integer, so that one binary search answers all rows.
    """
    start = int(times.min())
    width = np.int64(max(int(times.max()), int(earliest.max())) - start + 1)
    present = np.unique(group[among] * width + (times[among] - start))
    if present.size == 0:
        return np.full(times.shape, -1, np.int64)
    place = np.searchsorted(present, group * width + (earliest - start))
    found = present[np.minimum(place, present.size - 1)]
    same_group = (place < present.size) & (found // width == group)
    return np.where(same_group, found % width + start, np.int64(-1))
