"""Online Retail II: two years of orders and returns of a British gift shop."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_model.data.bundle import Bundle
from genrec_model.data.dataset import Dataset, items_of
from genrec_model.data.events import DAY_S, sort_events
from genrec_model.data.spec import DatasetSpec, TaskRule, TaskSpec
from genrec_model.data.tables import cast_columns, parse_table
from genrec_model.errors import DataError

_PURCHASE = ("purchase",)

ONLINE_RETAIL = DatasetSpec(
    name="online-retail",
    title="Online Retail II",
    actions=("purchase", "return"),
    # All three ask about purchases: a line that sends goods back is history, never a question.
    tasks=(
        TaskSpec(
            name="engagement",
            # Lines of one invoice share a second and are no repeats of each other.
            rule=TaskRule(
                kind="repeats_item_within", min_gap_s=1, horizon_s=28 * DAY_S, actions=_PURCHASE
            ),
            description="the customer orders the same item again within 28 days",
        ),
        TaskSpec(
            name="retention",
            rule=TaskRule(
                kind="returns_within", min_gap_s=DAY_S, horizon_s=28 * DAY_S, actions=_PURCHASE
            ),
            description="the customer orders again 1 to 28 days later",
        ),
        TaskSpec(
            name="monetization",
            # The median line is 11.90 pounds; at 15 both answers stay common.
            rule=TaskRule(kind="spend_at_least", threshold=15.0, actions=_PURCHASE),
            description="the order line is worth 15 pounds or more",
        ),
    ),
    unlabelled={},
    exclude_seen=False,
    value_unit="pounds",
    licence="CC BY 4.0 (UCI Online Retail II)",
)


def load_online_retail(path: Path) -> Dataset:
    """Online Retail II from a folder or zip with ``events.parquet`` and ``items.parquet``.

    ``events``: user, item, ts (unix seconds), qty (negative: sent back), price_c (pence).
    ``items``: row n is item n, with code and desc. An item's id is its stock code.

    Raises:
        DataError: a file is missing or broken, or an event names an item that is not there.
    """
    bundle = Bundle(path)
    lines, lines_name = _read(bundle, "events.parquet", ("user", "item", "ts", "qty", "price_c"))
    items, items_name = _read(bundle, "items.parquet", ("code", "desc"))
    if not lines["item"].is_between(0, items.height - 1).all():
        raise DataError(
            f"{lines_name}: an item number is beyond the {items.height} rows of {items_name}: "
            "both files must come from the same export"
        )
    titles = items.select(item_id=pl.col("code").cast(pl.String), title=pl.col("desc"))
    numbers = pl.col("item").cast(pl.Int64)
    spend = pl.col("qty").cast(pl.Float64) * pl.col("price_c").cast(pl.Float64) / 100
    numbered = cast_columns(
        lines,
        lines_name,
        user_id=pl.col("user").cast(pl.Int64),
        number=numbers,
        timestamp=pl.col("ts").cast(pl.Int64),
        action=pl.when(pl.col("qty") < 0).then(pl.lit("return")).otherwise(pl.lit("purchase")),
        value=spend.cast(pl.Float32),
    )
    codes = titles["item_id"].gather(numbered["number"])
    events = numbered.with_columns(codes).select(
        "user_id", "item_id", "timestamp", "action", "value"
    )
    return Dataset(spec=ONLINE_RETAIL, events=sort_events(events), items=items_of(events, titles))


def _read(bundle: Bundle, name: str, columns: tuple[str, ...]) -> tuple[pl.DataFrame, str]:
    member = bundle.find(name)
    if member is None:
        raise DataError(
            f"{bundle.path}: {name} is missing: events.parquet and items.parquet are needed"
        )
    label = bundle.label(member)
    return parse_table(bundle.read(member), "parquet", label, columns=columns), label
