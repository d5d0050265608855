"""The table that the suite looks at: the events and a few columns computed from them.

Great Expectations judges columns. What is a matter of several rows (order, duplicates, newness,
labels) is therefore first computed into a column of its own, whose name says what it holds.
"""

from __future__ import annotations

import polars as pl

from genrec_model.data.dataset import Dataset
from genrec_model.data.labels import label_events
from genrec_model.validation.limits import ValidationLimits

SINCE_PREVIOUS = "seconds_since_previous"
IS_DUPLICATE = "is_duplicate"
ON_NEW_ITEM = "on_new_item"


def validation_table(dataset: Dataset, limits: ValidationLimits) -> pl.DataFrame:
    """Events with helper columns.

    A helper whose source columns are missing or of another type is left out: the suite then
    fails by name instead of this function raising.

    Returns:
        the events and

        - ``seconds_since_previous`` Int64, null for a user's first row;
        - ``is_duplicate`` Int8, 1 where an earlier row is exactly the same;
        - ``on_new_item`` Int8, for rows in the last ``limits.new_item_window`` of the time span:
          1 if the item is first seen in it; null elsewhere;
        - ``label_<task>`` Int8 of :func:`~genrec_model.data.labels.label_events`.
    """
    events = dataset.events
    # Float32 has NaN beside null; the suite should see one kind of nothing.
    floats = [name for name, kind in events.schema.items() if kind.is_float()]
    events = events.with_columns(pl.col(floats).fill_nan(None))
    table = events
    if events.width:
        first = events.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        table = events.with_columns((~first).cast(pl.Int8).alias(IS_DUPLICATE))
    if _has(events, "user_id", "timestamp"):
        since = pl.col("timestamp").diff().over("user_id")
        table = table.with_columns(since.alias(SINCE_PREVIOUS))
    if _has(events, "item_id", "timestamp"):
        start = pl.col("timestamp").max() - limits.new_item_window * (
            pl.col("timestamp").max() - pl.col("timestamp").min()
        )
        is_new = pl.col("timestamp").min().over("item_id") >= start
        table = table.with_columns(
            pl.when(pl.col("timestamp") >= start).then(is_new.cast(pl.Int8)).alias(ON_NEW_ITEM)
        )
    # A label needs every time: one that is missing may be the return that another event awaits.
    if (
        _has(events, "user_id", "item_id", "timestamp", "action", "value")
        and events["timestamp"].null_count() == 0
    ):
        labels = label_events(events, dataset.spec)
        table = table.with_columns(labels[f"label_{task.name}"] for task in dataset.spec.tasks)
    return table


def _has(events: pl.DataFrame, *columns: str) -> bool:
    return all(
        name in events.columns
        and (name not in ("timestamp", "value") or events.schema[name].is_numeric())
        for name in columns
    )
