"""The data gate: real data pass, and each fault is found by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_model.data.catalog import load_dataset
from genrec_model.data.dataset import Dataset, items_of
from genrec_model.data.movielens import WHOLE_STARS, movielens_spec
from genrec_model.errors import ConfigError, ValidationFailed
from genrec_model.validation.gate import require_valid, validate_dataset
from genrec_model.validation.limits import ValidationLimits

ROOT = Path(__file__).parents[3]
SHARED = ROOT / "../shared/data"

USERS, ITEMS, EVENTS_EACH = 60, 80, 40
START = 1_600_000_000
DAY = 86_400


@pytest.fixture(scope="module")
def good() -> Dataset:
    """A small data set that meets every expectation."""
    rng = np.random.default_rng(7)
    rows = USERS * EVENTS_EACH
    stars = rng.integers(1, 6, rows)
    events = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(USERS), EVENTS_EACH),
            "item_id": rng.integers(0, ITEMS, rows),
            # Gaps from minutes to a month, so that some users return in time and some do not.
            "timestamp": START
            + np.cumsum(
                rng.choice([60, 2 * 3600, 30 * DAY], (USERS, EVENTS_EACH), p=[0.5, 0.3, 0.2]),
                axis=1,
            ).ravel(),
            "action": [f"rated_{star}" for star in stars],
            "value": stars.astype(np.float32),
        }
    )
    spec = movielens_spec("small", "Small <data> & more", stars=WHOLE_STARS)
    return Dataset(spec=spec, events=events, items=items_of(events))


def with_events(dataset: Dataset, events: pl.DataFrame) -> Dataset:
    return replace(dataset, events=events)


def in_row(row: int, column: str, value: object) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Put ``value`` into one cell."""

    def change(events: pl.DataFrame) -> pl.DataFrame:
        kind = events.schema[column]
        here = pl.int_range(pl.len()) == row
        return events.with_columns(
            pl.when(here).then(pl.lit(value, kind)).otherwise(pl.col(column)).alias(column)
        )

    return change


def test_good_data_pass(good: Dataset, tmp_path: Path) -> None:
    result = validate_dataset(good, tmp_path / "report.html")
    assert result.success, result.failed
    assert result.failed == ()
    assert all(check.success for check in result.checks)
    names = [check.name for check in result.checks]
    assert len(set(names)) == len(names)
    assert all(check.description and check.observed for check in result.checks)
    assert result.statistics["events"] == USERS * EVENTS_EACH
    assert result.statistics["users"] == USERS
    assert result.statistics["items"] == ITEMS
    assert result.statistics["evaluated"] == len(names)
    require_valid(result)


def test_text_ids_pass(good: Dataset, tmp_path: Path) -> None:
    text = good.events.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    assert validate_dataset(with_events(good, text), tmp_path / "report.html").success


FAULTS: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "missing column": (
        lambda e: e.drop("value"),
        "expect_table_columns_to_match_set(table)",
    ),
    "missing column, by its own name": (
        lambda e: e.drop("item_id"),
        "expect_column_values_to_not_be_null(item_id)",
    ),
    "unknown column": (
        lambda e: e.with_columns(surprise=1),
        "expect_table_columns_to_match_set(table)",
    ),
    "wrong type of id": (
        lambda e: e.with_columns(pl.col("user_id").cast(pl.Float64)),
        "expect_column_values_to_be_in_type_list(user_id)",
    ),
    "wrong type of time": (
        lambda e: e.with_columns(pl.col("timestamp").cast(pl.String)),
        "expect_column_values_to_be_of_type(timestamp)",
    ),
    "wrong type of value": (
        lambda e: e.with_columns(pl.col("value").cast(pl.Float64)),
        "expect_column_values_to_be_of_type(value)",
    ),
    "no user": (in_row(3, "user_id", None), "expect_column_values_to_not_be_null(user_id)"),
    "no item": (in_row(3, "item_id", None), "expect_column_values_to_not_be_null(item_id)"),
    "no time": (in_row(3, "timestamp", None), "expect_column_values_to_not_be_null(timestamp)"),
    "no action": (in_row(3, "action", None), "expect_column_values_to_not_be_null(action)"),
    "no value": (in_row(3, "value", None), "expect_column_values_to_not_be_null(value)"),
    "not a number": (
        in_row(3, "value", float("nan")),
        "expect_column_values_to_not_be_null(value)",
    ),
    "infinite value": (
        in_row(3, "value", float("inf")),
        "expect_column_values_to_be_between(value)",
    ),
    "unknown action": (in_row(3, "action", "liked"), "expect_column_values_to_be_in_set(action)"),
    "future time": (
        in_row(USERS * EVENTS_EACH - 1, "timestamp", 4_000_000_000),
        "expect_column_values_to_be_between(timestamp)",
    ),
    "milliseconds": (
        lambda e: e.with_columns(pl.col("timestamp") * 1000),
        "expect_column_values_to_be_between(timestamp)",
    ),
    "time runs backwards": (
        in_row(5, "timestamp", START - DAY),
        "expect_column_values_to_be_between(seconds_since_previous)",
    ),
    "duplicates": (
        lambda e: pl.concat([e, e.head(400)]).sort("user_id", "timestamp"),
        "expect_column_mean_to_be_between(is_duplicate)",
    ),
    "few events": (lambda e: e.head(500), "expect_table_row_count_to_be_between(table)"),
    "no events": (lambda e: e.head(0), "expect_table_row_count_to_be_between(table)"),
    "no columns": (
        lambda e: pl.DataFrame(),
        "expect_table_columns_to_match_set(table)",
    ),
    "one user": (
        lambda e: e.with_columns(user_id=1).sort("timestamp"),
        "expect_column_unique_value_count_to_be_between(user_id)",
    ),
    "one item": (
        lambda e: e.with_columns(item_id=1),
        "expect_column_unique_value_count_to_be_between(item_id)",
    ),
    "all items new": (
        # Every week has items of its own.
        lambda e: e.with_columns(item_id=pl.col("timestamp") // (7 * DAY)),
        "expect_column_mean_to_be_between(on_new_item)",
    ),
    "everybody is pleased": (
        lambda e: e.with_columns(action=pl.lit("rated_5"), value=pl.lit(5.0, pl.Float32)),
        "expect_column_mean_to_be_between(label_engagement)",
    ),
    "nobody is pleased": (
        lambda e: e.with_columns(action=pl.lit("rated_1"), value=pl.lit(1.0, pl.Float32)),
        "expect_column_mean_to_be_between(label_engagement)",
    ),
    "too short to know who returns": (
        lambda e: e.with_columns(timestamp=START + pl.int_range(pl.len()).over("user_id")),
        "expect_column_proportion_of_non_null_values_to_be_between(label_retention)",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_name(good: Dataset, tmp_path: Path, fault: str) -> None:
    change, name = FAULTS[fault]
    result = validate_dataset(with_events(good, change(good.events)), tmp_path / "report.html")
    assert not result.success
    assert name in result.failed
    with pytest.raises(ValidationFailed, match=re.escape(name)) as caught:
        require_valid(result)
    assert caught.value.failed == result.failed
    assert "\n" not in str(caught.value)
    page = (tmp_path / "report.html").read_text()
    assert name in page
    assert "refused" in page


@pytest.mark.parametrize(
    "fault",
    ["infinite value", "unknown action", "time runs backwards", "future time", "no value"],
)
def test_one_bad_cell_fails_few_expectations(good: Dataset, tmp_path: Path, fault: str) -> None:
    change, _ = FAULTS[fault]
    result = validate_dataset(with_events(good, change(good.events)), tmp_path / "report.html")
    # A null leaves the labels unknowable; everything else stays what it was.
    assert len([name for name in result.failed if "label_" not in name]) <= 2


def test_limits_move_the_bar(good: Dataset, tmp_path: Path) -> None:
    strict = ValidationLimits(min_users=USERS + 1)
    result = validate_dataset(good, tmp_path / "report.html", limits=strict)
    assert result.failed == ("expect_column_unique_value_count_to_be_between(user_id)",)


def test_bad_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_duplicate_share must lie between 0 and 1"):
        ValidationLimits(max_duplicate_share=5.0)
    with pytest.raises(ConfigError, match="min_label_rate is above"):
        ValidationLimits(min_label_rate=0.9, max_label_rate=0.1)


class Links(HTMLParser):
    """Collects whatever a page would fetch, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_is_one_whole_page(good: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    result = validate_dataset(good, path)
    page = path.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(page)
    assert parser.open == []
    assert parser.fetched == []
    assert not re.search(r"https?://|@import|<script|url\(", page)
    assert "Small <data> & more" in parser.text  # escaped in the source, right in the text
    assert all(check.name in parser.text for check in result.checks)
    assert "MovieLens has no money" in parser.text
    assert "2,400" in parser.text
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_the_result_is_json(good: Dataset, tmp_path: Path) -> None:
    import json

    result = validate_dataset(good, tmp_path / "report.html")
    data = json.loads(json.dumps(result.to_dict()))
    assert data["success"] is True
    assert data["checks"][0]["severity"] == "critical"


REAL = {
    "movielens-100k": ROOT / "data/ml-100k",
    "movielens": SHARED / "ml-1m",
    "kuairand": SHARED / "kuairand-subset",
    "online-retail": SHARED / "online-retail-ii",
}


@pytest.mark.parametrize("name", REAL)
def test_real_data_pass(name: str, tmp_path: Path) -> None:
    if not REAL[name].is_dir():
        pytest.skip(f"the data of {name} are absent")
    result = validate_dataset(load_dataset(name, path=REAL[name]), tmp_path / "report.html")
    assert result.success, result.failed
