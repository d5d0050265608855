"""The event table: what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_model.data.events import check_events, read_events, sort_events, write_events
from genrec_model.data.movielens import WHOLE_STARS, movielens_spec
from genrec_model.errors import DataError

SPEC = movielens_spec("ml", "ML", stars=WHOLE_STARS)
NOW = 1_000_000


def table(**changes: Any) -> pl.DataFrame:
    columns = {
        "user_id": [1, 1, 2, 2],
        "item_id": [10, 11, 10, 12],
        "timestamp": [100, 200, 50, 60],
        "action": ["rated_4", "rated_5", "rated_1", "rated_3"],
        "value": [4.0, 5.0, 1.0, 3.0],
        **changes,
    }
    schema = {"timestamp": pl.Int64, "action": pl.String, "value": pl.Float32}
    frame = pl.DataFrame(columns)
    return frame.with_columns(pl.col(n).cast(t) for n, t in schema.items() if n in frame.columns)


def test_good_events_pass() -> None:
    check_events(table(), SPEC, now=NOW)
    check_events(table(user_id=["a", "a", "b", "b"]), SPEC, now=NOW)
    check_events(table(user_id=[2, 2, 1, 1]), SPEC, now=NOW)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().head(0), "no events"),
        (table().drop("item_id", "action"), "missing column item_id, action"),
        (table().select("user_id").head(0).drop("user_id"), "missing column user_id"),
        (table(user_id=[1, None, 2, 2]), r"user_id is empty in row 1"),
        (table(item_id=[1, 2, 3, None]), r"item_id is empty in row 3"),
        (table(timestamp=[None, 200, 50, 60]), r"timestamp is empty in row 0"),
        (table(value=[1.0, None, 1.0, 1.0]), r"value is not a finite number in row 1"),
        (table(value=[1.0, 1.0, float("nan"), 1.0]), r"value is not a finite number in row 2"),
        (table(value=[1.0, 1.0, 1.0, float("inf")]), r"value is not a finite number in row 3"),
        (
            table(action=["rated_9"] * 4),
            r"unknown action 'rated_9': allowed are rated_1, .*rated_5",
        ),
        (table(action=["a", "b", "c", "d"]), r"'a', 'b', 'c' and 1 more"),
        (table(timestamp=[100, NOW + 86_401, 1, 2]), r"user 1 in row 1 .* is in the future"),
        (table(timestamp=[100, 1_700_000_000_000, 1, 2]), r"looks like milliseconds"),
        (table(timestamp=[-5, 1, 1, 2]), r"before 1970"),
        (table(timestamp=[100, 200, 60, 50]), r"backwards at user 2 in row 3"),
        (table(user_id=[1, 2, 1, 2], timestamp=[1, 1, 2, 2]), "do not lie together"),
        (table(user_id=[7] * 4, timestamp=[1, 2, 3, 4]), "the only user is 7"),
        (table(item_id=[7] * 4), "the only item is 7"),
        (table(user_id=[1.0, 1.0, 2.0, 2.0]), "column user_id is Float64, it must be Int64 or"),
    ],
)
def test_bad_events_are_refused_in_one_line(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        check_events(frame, SPEC, now=NOW)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("ml: ")


def test_a_day_of_clock_skew_is_forgiven() -> None:
    check_events(table(timestamp=[100, NOW + 86_400, 1, 2]), SPEC, now=NOW)


def test_declared_extra_columns_are_required() -> None:
    spec = type(SPEC).from_dict({**SPEC.to_dict(), "extra_columns": ["device"]})
    with pytest.raises(DataError, match="missing column device"):
        check_events(table(), spec, now=NOW)


def test_sort_keeps_the_order_of_ties() -> None:
    shuffled = table(user_id=[2, 1, 2, 1], timestamp=[5, 9, 5, 3])
    assert sort_events(shuffled)["item_id"].to_list() == [12, 11, 10, 10]


def test_write_then_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.parquet"
    write_events(table(), path)
    write_events(table(), path)
    assert read_events(path).equals(table())
    assert [file.name for file in path.parent.iterdir()] == ["events.parquet"]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    frame = pl.DataFrame({"thing": [object()]})
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever polars raises
        write_events(frame, tmp_path / "events.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00\xff" * 400, b"user_id,item_id\n1,2\n"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"events\.parquet: ") as caught:
        read_events(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_events(tmp_path / "nothing.parquet")
