"""A data set: its specification, its events and the items that they are about."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from genrec_model.data.spec import DatasetSpec


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What an adapter returns.

    Args:
        spec: names, actions and tasks.
        events: the event table, see :mod:`genrec_model.data.events`.
        items: ``item_id`` and ``title``, one row per item of ``events``, sorted by id.
    """

    spec: DatasetSpec
    events: pl.DataFrame
    items: pl.DataFrame


def items_of(events: pl.DataFrame, titles: pl.DataFrame | None = None) -> pl.DataFrame:
    """Items of ``events`` with their titles; an item without a title is called by its id.

    Args:
        events: event table.
        titles: ``item_id`` (of the same type as in ``events``) and ``title``, if there are any.
    """
    items = events.select("item_id").unique().sort("item_id")
    named = (
        items.with_columns(title=pl.lit(None, pl.String))
        if titles is None
        else items.join(
            titles.unique("item_id", keep="first", maintain_order=True), on="item_id", how="left"
        )
    )
    title = pl.col("title").str.strip_chars()
    has_title = title.is_not_null() & (title != "")
    return named.select(
        "item_id",
        title=pl.when(has_title).then(title).otherwise(pl.col("item_id").cast(pl.String)),
    ).sort("item_id")
