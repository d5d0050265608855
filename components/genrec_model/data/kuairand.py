"""KuaiRand: short videos shown in an app, with what people did about each."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from genrec_model.data.bundle import Bundle
from genrec_model.data.dataset import Dataset, items_of
from genrec_model.data.events import sort_events
from genrec_model.data.spec import DatasetSpec, TaskRule, TaskSpec
from genrec_model.data.tables import TableKind, cast_columns, parse_table, read_table
from genrec_model.errors import DataError

# From the strongest sign of interest to the weakest; an event is named by its strongest.
_SIGNALS = {
    "follow": "is_follow",
    "forward": "is_forward",
    "comment": "is_comment",
    "long_view": "long_view",
    "click": "is_click",
}
_COLUMNS = ("user_id", "video_id", "time_ms", "play_time_ms", "duration_ms", *_SIGNALS.values())
_MAX_RATIO = 5.0

KUAIRAND = DatasetSpec(
    name="kuairand",
    title="KuaiRand short videos",
    actions=("impression", *reversed(_SIGNALS)),
    tasks=(
        TaskSpec(
            name="engagement",
            rule=TaskRule(kind="action_in", actions=("long_view", "comment", "forward", "follow")),
            description="the user watches long, as KuaiRand defines it, or does more than watch",
        ),
        TaskSpec(
            name="retention",
            # These users open the app many times a day: within a day 92 % are back and the label
            # would say little, within six hours 55 % are.
            rule=TaskRule(kind="returns_within", min_gap_s=3600, horizon_s=6 * 3600),
            description="the user comes back in a later session, 1 to 6 hours later",
        ),
    ),
    unlabelled={"monetization": "KuaiRand records no spending"},
    exclude_seen=True,
    value_unit="watched share of the video, at most 5",
    licence="CC BY-SA 4.0",
)


def load_kuairand(path: Path) -> Dataset:
    """KuaiRand from one log file, or from a folder or zip of them.

    In a folder ``interactions.tsv`` is taken if it is there, else all ``log_standard_*.csv``.

    Raises:
        DataError: there is no such file, or it is broken.
    """
    logs = _logs(path)
    zero, one = pl.lit(0.0), pl.lit(_MAX_RATIO)
    played, lasts = pl.col("play_time_ms").cast(pl.Float64), pl.col("duration_ms").cast(pl.Float64)
    # Some videos have no known length; their watch ratio is not knowable and counts as none.
    ratio = pl.when(lasts > 0).then((played / lasts).clip(zero, one)).otherwise(zero)
    action = pl.lit("impression")
    for name, column in reversed(_SIGNALS.items()):
        action = pl.when(pl.col(column) == 1).then(pl.lit(name)).otherwise(action)
    events = cast_columns(
        logs,
        path,
        user_id=pl.col("user_id").cast(pl.Int64),
        item_id=pl.col("video_id").cast(pl.Int64),
        timestamp=pl.col("time_ms").cast(pl.Int64) // 1000,
        action=action,
        value=ratio.cast(pl.Float32),
    )
    return Dataset(spec=KUAIRAND, events=sort_events(events), items=items_of(events))


def _logs(path: Path) -> pl.DataFrame:
    if path.is_file() and path.suffix.lower() != ".zip":
        return _ordered(read_table(path, columns=_COLUMNS))
    bundle = Bundle(path)
    subset = bundle.find("interactions.tsv")
    members = (subset,) if subset is not None else bundle.glob("log_standard_*.csv")
    if not members:
        raise DataError(
            f"{path}: no KuaiRand here: interactions.tsv or log_standard_*.csv is needed"
        )
    tables = [
        parse_table(bundle.read(member), _kind(member), bundle.label(member), columns=_COLUMNS)
        for member in members
    ]
    return _ordered(pl.concat([table.select(_COLUMNS) for table in tables], how="vertical_relaxed"))


def _kind(member: str) -> TableKind:
    return "tsv" if member.endswith(".tsv") else "csv"


def _ordered(logs: pl.DataFrame) -> pl.DataFrame:
    # Milliseconds order what whole seconds would tie.
    return logs.sort("user_id", "time_ms", maintain_order=True)
