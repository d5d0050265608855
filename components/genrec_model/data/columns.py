"""Any Parquet, CSV or TSV file, through a column mapping."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl

from genrec_model.data.dataset import Dataset, items_of
from genrec_model.data.events import DAY_S, first_step_back, sort_events
from genrec_model.data.mapping import ColumnMapping
from genrec_model.data.spec import DatasetSpec, TaskRule, TaskSpec
from genrec_model.data.tables import cast_columns, read_table
from genrec_model.errors import DataError

__all__ = ["ColumnMapping", "load_columns"]

_MAX_ACTIONS = 256
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


def load_columns(path: Path, mapping: ColumnMapping) -> Dataset:
    """Read ``path`` as ``mapping`` says.

    Raises:
        DataError: the file is broken, lacks a mapped column, or its times cannot be understood.
    """
    table = read_table(path, columns=mapping.columns)
    columns = {
        "user_id": _ids(table, mapping.user),
        "item_id": _ids(table, mapping.item),
        "timestamp": _seconds(table, mapping, path),
        "action": pl.lit("interaction")
        if mapping.action is None
        else pl.col(mapping.action).cast(pl.String),
        "value": pl.lit(1.0, pl.Float32)
        if mapping.value is None
        else pl.col(mapping.value).cast(pl.Float32),
    }
    if mapping.title is not None:
        columns["title"] = pl.col(mapping.title).cast(pl.String)
    table = cast_columns(table, path, **columns)
    events = table.select("user_id", "item_id", "timestamp", "action", "value")
    step = None if mapping.sort else first_step_back(events)
    if step is not None:
        raise DataError(
            f"{path}: time runs backwards at user {step[1]} in data row {step[0] + 1}: "
            "mend the file, or give sort=true if its order means nothing"
        )
    titles = table.select("item_id", "title") if mapping.title is not None else None
    spec = _spec(path, mapping, events)
    return Dataset(spec=spec, events=sort_events(events), items=items_of(events, titles))


def _ids(table: pl.DataFrame, column: str) -> pl.Expr:
    kind = table.schema[column]
    if kind.is_float() and (table[column].drop_nulls() % 1 == 0).all():
        # Integer ids with a gap come out of pandas as floats.
        return pl.col(column).cast(pl.Int64)
    return pl.col(column).cast(pl.Int64 if kind.is_integer() else pl.String)


def _seconds(table: pl.DataFrame, mapping: ColumnMapping, path: Path) -> pl.Expr:
    column = pl.col(mapping.timestamp)
    kind = table.schema[mapping.timestamp]
    if kind == pl.Date or kind == pl.Datetime:
        return column.dt.epoch("s").cast(pl.Int64)
    if kind.is_numeric():
        return (column // _PER_SECOND[mapping.timestamp_unit or "s"]).cast(pl.Int64)
    if kind != pl.String:
        raise DataError(f"{path}: {mapping.timestamp} is {kind}: give dates, times or unix seconds")
    parsed = _parse_times(table[mapping.timestamp], path, mapping.timestamp)
    return pl.lit(parsed)


def _parse_times(texts: pl.Series, path: Path, column: str) -> pl.Series:
    try:
        times = texts.str.strip_chars().str.to_datetime(
            time_unit="us", time_zone="UTC", strict=False
        )
    except pl.exceptions.PolarsError:
        # Raised when not even the first value suggests a format.
        times = pl.Series([None] * len(texts), dtype=pl.Datetime("us", "UTC"))
    bad = (times.is_null() & texts.is_not_null()).arg_true()
    if len(bad):
        raise DataError(
            f"{path}: {column} {texts[bad[0]]!r} in data row {bad[0] + 1} is no time: "
            "use unix seconds or ISO 8601, for example 2024-05-01T12:00:00Z"
        )
    return times.dt.epoch("s")


def _spec(path: Path, mapping: ColumnMapping, events: pl.DataFrame) -> DatasetSpec:
    actions = tuple(events["action"].drop_nulls().unique().sort())
    if len(actions) > _MAX_ACTIONS:
        raise DataError(
            f"{path}: {mapping.action} has {len(actions)} different values, more than "
            f"{_MAX_ACTIONS}: is it really the action column?"
        )
    unseen = [name for name in mapping.engagement_actions if name not in actions]
    if unseen:
        raise DataError(
            f"{path}: engagement action {unseen[0]!r} does not occur: "
            f"there are {', '.join(actions[:8])}"
        )
    tasks = _tasks(mapping)
    reasons = {
        "engagement": "no engagement_threshold and no engagement_actions were given",
        "monetization": "no spend_threshold was given",
    }
    named = {task.name for task in tasks}
    return DatasetSpec(
        name=re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-") or "columns",
        title=path.name,
        actions=actions or ("interaction",),
        tasks=tasks,
        unlabelled={task: reason for task, reason in reasons.items() if task not in named},
        exclude_seen=mapping.exclude_seen,
        value_unit=mapping.value_unit,
        licence="as given by its owner",
    )


def _tasks(mapping: ColumnMapping) -> tuple[TaskSpec, ...]:
    tasks: list[TaskSpec] = []
    if mapping.engagement_threshold is not None:
        tasks.append(
            TaskSpec(
                name="engagement",
                rule=TaskRule(kind="value_at_least", threshold=mapping.engagement_threshold),
                description=f"the value is {mapping.engagement_threshold:g} or more",
            )
        )
    elif mapping.engagement_actions:
        tasks.append(
            TaskSpec(
                name="engagement",
                rule=TaskRule(kind="action_in", actions=mapping.engagement_actions),
                description=f"the action is {' or '.join(mapping.engagement_actions)}",
            )
        )
    tasks.append(
        TaskSpec(
            name="retention",
            rule=TaskRule(kind="returns_within", min_gap_s=3600, horizon_s=7 * DAY_S),
            description="the user acts again 1 hour to 7 days later",
        )
    )
    if mapping.spend_threshold is not None:
        tasks.append(
            TaskSpec(
                name="monetization",
                rule=TaskRule(kind="spend_at_least", threshold=mapping.spend_threshold),
                description=f"the user spends {mapping.spend_threshold:g} or more",
            )
        )
    return tuple(tasks)
