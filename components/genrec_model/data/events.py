"""The event table: what every adapter produces and everything else reads.

======== ================ =======================================
column   type             meaning
======== ================ =======================================
user_id  Int64 or String  who
item_id  Int64 or String  what
timestamp Int64           when, unix seconds
action   String           one of the data set's actions
value    Float32          rating, spend or watch ratio
======== ================ =======================================

Rows are grouped by user; inside a user they run forward in time, ties in source order.
"""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl

from genrec_model.data.spec import DatasetSpec
from genrec_model.errors import DataError
from genrec_model.files import replacing

COLUMN_TYPES: dict[str, tuple[type[pl.DataType], ...]] = {
    "user_id": (pl.Int64, pl.String),
    "item_id": (pl.Int64, pl.String),
    "timestamp": (pl.Int64,),
    "action": (pl.String,),
    "value": (pl.Float32,),
}
COLUMNS = tuple(COLUMN_TYPES)

DAY_S = 86_400

# In seconds this is the year 5138, in milliseconds 1973.
_MILLISECONDS_FROM = 100_000_000_000


def read_events(path: Path) -> pl.DataFrame:
    """Read an event table from a Parquet file.

    Raises:
        DataError: the file is missing, empty or not Parquet.
    """
    # Imported here: tables needs nothing of this module, but adapters import both.
    from genrec_model.data.tables import read_table

    return read_table(path, kind="parquet")


def write_events(frame: pl.DataFrame, path: Path) -> None:
    """Write an event table as Parquet; the file appears whole or not at all."""
    with replacing(path) as unfinished:
        frame.write_parquet(unfinished, compression="zstd")


def sort_events(frame: pl.DataFrame) -> pl.DataFrame:
    """Order rows by user, then time; ties keep the order that they have in ``frame``."""
    return frame.sort("user_id", "timestamp", maintain_order=True)


def first_step_back(frame: pl.DataFrame) -> tuple[int, object] | None:
    """Row (from 0) and user of the first event earlier than the user's event before it."""
    backwards = pl.col("timestamp").diff().over("user_id") < 0
    rows = frame.lazy().with_row_index("row").filter(backwards).head(1).collect()
    return (rows["row"][0], rows["user_id"][0]) if rows.height else None


def check_events(frame: pl.DataFrame, spec: DatasetSpec, *, now: int | None = None) -> None:
    """Refuse a table that nothing can be learned from, with the reason.

    This is the cheap check of every reader. :mod:`genrec_model.validation` looks deeper.

    Args:
        frame: event table.
        spec: its data set's specification.
        now: unix seconds, today if not given; events more than a day later are refused.

    Raises:
        DataError: the table is empty, lacks columns or types, has nulls, unknown actions, future
            or backward times, a single user or a single item.
    """
    _check_columns(frame, spec)
    _check_nulls(frame, spec)
    _check_actions(frame, spec)
    _check_times(frame, spec, now=int(time.time()) if now is None else now)
    _check_order(frame, spec)
    for column, noun in (("user_id", "user"), ("item_id", "item")):
        if frame[column].n_unique() < 2:
            raise DataError(
                f"{spec.name}: the only {noun} is {frame[column][0]}, nothing can be learned "
                f"from one {noun}: give data with several"
            )


def _check_columns(frame: pl.DataFrame, spec: DatasetSpec) -> None:
    missing = [name for name in (*COLUMNS, *spec.extra_columns) if name not in frame.columns]
    if missing:
        raise DataError(
            f"{spec.name}: missing column {', '.join(missing)} (there are: "
            f"{', '.join(frame.columns) or 'none'}): name the columns of the source"
        )
    if frame.height == 0:
        raise DataError(f"{spec.name}: there are no events: give a file with at least one row")
    for name, allowed in COLUMN_TYPES.items():
        if frame.schema[name] not in allowed:
            raise DataError(
                f"{spec.name}: column {name} is {frame.schema[name]}, it must be "
                f"{' or '.join(kind.__name__ for kind in allowed)}: convert it first"
            )


def _check_nulls(frame: pl.DataFrame, spec: DatasetSpec) -> None:
    for name in COLUMNS:
        bad = pl.col(name).is_null()
        if name == "value":
            bad |= ~pl.col(name).is_finite()
        row = _first_row(frame, bad)
        if row is not None:
            what = "not a finite number" if name == "value" else "empty"
            raise DataError(
                f"{spec.name}: {name} is {what} in row {row} (from 0): drop or mend such rows"
            )


def _check_actions(frame: pl.DataFrame, spec: DatasetSpec) -> None:
    unknown = sorted(set(frame["action"].unique()) - set(spec.actions))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise DataError(
            f"{spec.name}: unknown action {', '.join(map(repr, unknown[:3]))}{more}: "
            f"allowed are {', '.join(spec.actions)}"
        )


def _check_times(frame: pl.DataFrame, spec: DatasetSpec, *, now: int) -> None:
    times = pl.col("timestamp")
    checks = (
        (times >= _MILLISECONDS_FROM, "looks like milliseconds: give unix seconds"),
        (times > now + DAY_S, "is in the future: mend the clock of the source or drop the row"),
        (times < 0, "is before 1970: give unix seconds"),
    )
    for bad, advice in checks:
        row = _first_row(frame, bad)
        if row is not None:
            raise DataError(
                f"{spec.name}: timestamp {frame['timestamp'][row]} of user "
                f"{frame['user_id'][row]} in row {row} (from 0) {advice}"
            )


def _check_order(frame: pl.DataFrame, spec: DatasetSpec) -> None:
    step = first_step_back(frame)
    if step is not None:
        raise DataError(
            f"{spec.name}: time runs backwards at user {step[1]} in row {step[0]} (from 0): "
            "sort the events of each user by time"
        )
    # Readers slice histories out of the table, so a user's rows must lie together.
    runs = frame.select((pl.col("user_id") != pl.col("user_id").shift()).sum()).item() + 1
    if runs != frame["user_id"].n_unique():
        raise DataError(f"{spec.name}: rows of a user do not lie together: sort by user, then time")


def _first_row(frame: pl.DataFrame, condition: pl.Expr) -> int | None:
    rows = frame.lazy().select(condition.fill_null(False).arg_true().first()).collect()
    row: int | None = rows.item()
    return row
