"""Any file through a column mapping, and the catalogue of names."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from genrec_model.data.catalog import DATASETS, load_dataset
from genrec_model.data.columns import ColumnMapping
from genrec_model.data.dataset import Dataset
from genrec_model.errors import ConfigError, DataError

MAPPING = ColumnMapping(user="uid", item="sku", timestamp="at")
NOON = 1_714_564_800  # 2024-05-01T12:00:00Z


def source(**changes: Any) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "uid": ["a", "b", "a", "b"],
            "sku": [1, 1, 2, 3],
            "at": [NOON, NOON, NOON + 5, NOON + 9],
            "kind": ["view", "buy", "view", "view"],
            "price": [1.5, 2.0, 0.0, 9.0],
            "name": ["one", "one", "two", None],
            **changes,
        },
        strict=False,
    )


def load(tmp_path: Path, frame: pl.DataFrame, **options: Any) -> Dataset:
    path = tmp_path / "Shop Log.parquet"
    frame.write_parquet(path)
    mapping = ColumnMapping(user="uid", item="sku", timestamp="at", **options)
    return load_dataset("columns", path=path, mapping=mapping)


def test_least_that_is_needed(tmp_path: Path) -> None:
    dataset = load(tmp_path, source())
    assert dataset.events.schema == {
        "user_id": pl.String,
        "item_id": pl.Int64,
        "timestamp": pl.Int64,
        "action": pl.String,
        "value": pl.Float32,
    }
    assert dataset.events["user_id"].to_list() == ["a", "a", "b", "b"]
    assert dataset.events["action"].unique().to_list() == ["interaction"]
    assert dataset.events["value"].unique().to_list() == [1.0]
    assert dataset.spec.name == "shop-log"
    assert dataset.spec.task_names == ("retention",)
    assert set(dataset.spec.unlabelled) == {"engagement", "monetization"}


def test_everything_mapped(tmp_path: Path) -> None:
    dataset = load(
        tmp_path,
        source(),
        action="kind",
        value="price",
        title="name",
        engagement_actions=("buy",),
        spend_threshold=2.0,
    )
    assert dataset.spec.actions == ("buy", "view")
    assert dataset.spec.task_names == ("engagement", "retention", "monetization")
    assert dataset.items.rows() == [(1, "one"), (2, "two"), (3, "3")]


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_text_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    source().write_csv(path, separator="," if suffix == ".csv" else "\t")
    events = load_dataset("columns", path=path, mapping=MAPPING).events
    assert events["timestamp"].to_list() == [NOON, NOON + 5, NOON, NOON + 9]


@pytest.mark.parametrize(
    "times",
    [
        ["2024-05-01T12:00:00Z"] * 4,
        ["2024-05-01T14:00:00+02:00"] * 4,
        ["2024-05-01 12:00:00"] * 4,
        [datetime(2024, 5, 1, 12)] * 4,
        [datetime(2024, 5, 1, 12, tzinfo=UTC)] * 4,
        [float(NOON)] * 4,
    ],
)
def test_times_of_many_kinds(tmp_path: Path, times: list[Any]) -> None:
    events = load(tmp_path, source(at=times)).events
    assert events["timestamp"].unique().to_list() == [NOON]


def test_dates_and_zones(tmp_path: Path) -> None:
    events = load(tmp_path, source(at=[date(2024, 5, 1)] * 4)).events
    assert events["timestamp"].unique().to_list() == [NOON - 12 * 3600]
    zoned = source().with_columns(
        at=pl.lit(datetime(2024, 5, 1, 14)).dt.replace_time_zone("Europe/Berlin")
    )
    assert load(tmp_path, zoned).events["timestamp"].unique().to_list() == [NOON]


def test_milliseconds_need_to_be_declared(tmp_path: Path) -> None:
    frame = source().with_columns(pl.col("at") * 1000 + 7)
    with pytest.raises(DataError, match="milliseconds"):
        load(tmp_path, frame)
    assert load(tmp_path, frame, timestamp_unit="ms").events["timestamp"].to_list()[0] == NOON


def test_backward_times_are_refused_unless_sorted(tmp_path: Path) -> None:
    frame = source(at=[NOON, NOON, NOON + 5, NOON - 9])
    with pytest.raises(DataError, match=r"backwards at user b in data row 4: .*sort=true"):
        load(tmp_path, frame)
    assert load(tmp_path, frame, sort=True).events["timestamp"].to_list()[2:] == [NOON - 9, NOON]


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (source().rename({"sku": "x"}), {}, r"Shop Log\.parquet: missing column sku"),
        (source(at=["soon"] * 4), {}, r"at 'soon' in data row 1 is no time"),
        (source(at=["2024-05-01T12:00:00Z", "x", "y", "z"]), {}, r"at 'x' in data row 2"),
        (source(at=[True] * 4), {}, "at is Boolean"),
        (source(at=[None, NOON, NOON, NOON]), {}, "timestamp is empty"),
        (source(at=[4_000_000_000] * 4), {}, "in the future"),
        (source(uid=["a"] * 4), {}, "the only user is a"),
        (source(sku=[1] * 4), {}, "the only item is 1"),
        (source(uid=[None, "b", "c", "d"]), {}, "user_id is empty"),
        (source(price=["1", "2", "dear", "4"]), {"value": "price"}, "wrong type"),
        (source(price=[1.0, None, 1.0, 1.0]), {"value": "price"}, "value is not a finite"),
        (source().head(0), {}, "no rows"),
        (source(), {"action": "kind", "engagement_actions": ("love",)}, "'love' does not occur"),
    ],
)
def test_bad_files_are_explained(
    tmp_path: Path, frame: pl.DataFrame, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, frame, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.csv", b"", "empty"),
        ("log.csv", b"uid,sku,at\n", "no rows"),
        ("log.csv", bytes(range(256)) * 20, "not a readable csv"),
        ("log.csv", "uid,sku,at\nJosé,1,2\n".encode("latin-1"), "UTF-8"),
        ("log.csv", "uid,sku,at\na,1,2\n".encode("utf-16"), r"log\.csv: "),
        ("log.parquet", b"uid,sku,at\n", "not a readable parquet"),
        ("log.xlsx", b"x", "unknown kind of file"),
    ],
)
def test_unreadable_files_are_named(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset("columns", path=path, mapping=MAPPING)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_many_actions_are_suspicious(tmp_path: Path) -> None:
    frame = pl.DataFrame({"uid": range(300), "sku": range(300), "at": range(300)})
    with pytest.raises(DataError, match="is it really the action column"):
        load(tmp_path, frame, action="sku")


def test_integer_ids_with_gaps_stay_integers(tmp_path: Path) -> None:
    events = load(tmp_path, source(uid=[1.0, 2.0, 1.0, 2.0])).events
    assert events.schema["user_id"] == pl.Int64


def test_parse() -> None:
    options = ["user=u", "item=i", "timestamp=t", "sort=true", "engagement_actions=buy, like"]
    options += ["timestamp_unit=ms", "action=a", "value=v", "spend_threshold=2.5"]
    assert ColumnMapping.parse(options) == ColumnMapping(
        user="u",
        item="i",
        timestamp="t",
        sort=True,
        engagement_actions=("buy", "like"),
        timestamp_unit="ms",
        action="a",
        value="v",
        spend_threshold=2.5,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "user, item, timestamp is missing"),
        (["user"], "'user' is not name=column"),
        (["user="], "is not name=column"),
        (["usr=u"], "'usr' is unknown"),
        (["user=u", "user=v"], "given twice"),
        (["user=u", "item=i", "timestamp=t", "sort=maybe"], "true or false"),
        (["user=u", "item=i", "timestamp=t", "timestamp_unit=h"], "use s, ms, us"),
        (["user=u", "item=i", "timestamp=t", "spend_threshold=lots"], "must be a number"),
        (["user=u", "item=i", "timestamp=t", "spend_threshold=3"], "needs a value column"),
        (["user=u", "item=i", "timestamp=t", "engagement_actions=x"], "needs an action column"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ColumnMapping.parse(options)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'netflix' is unknown: use one of") as caught:
        load_dataset("netflix")
    assert all(name in str(caught.value) for name in DATASETS)


@pytest.mark.parametrize("name", ["movielens", "kuairand", "online-retail"])
def test_a_path_is_needed(name: str) -> None:
    with pytest.raises(ConfigError, match="a path is needed"):
        load_dataset(name)


def test_a_mapping_belongs_to_columns_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mapping is needed"):
        load_dataset("columns", path=tmp_path)
    with pytest.raises(ConfigError, match="only for `columns`"):
        load_dataset("kuairand", path=tmp_path, mapping=MAPPING)


@pytest.mark.parametrize("name", ["movielens", "kuairand", "online-retail"])
def test_a_missing_path_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="nowhere: no such"):
        load_dataset(name, path=tmp_path / "nowhere")
