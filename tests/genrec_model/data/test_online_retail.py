"""Online Retail II: orders and returns, tiny and real."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from genrec_model.data.catalog import load_dataset
from genrec_model.data.labels import label_events
from genrec_model.errors import DataError

REAL = Path(__file__).parents[3] / "../shared/data/online-retail-ii"
DAY = 86_400


def write(folder: Path, *, items: int = 3) -> Path:
    pl.DataFrame(
        {
            "user": [5, 5, 5, 5, 6],
            "item": [0, 1, 0, 0, 2],
            "ts": [0, 0, 20 * DAY, 21 * DAY, 200 * DAY],
            "qty": [2, 1, 1, -1, 10],
            "price_c": [750, 1499, 100, 100, 5],
        },
        schema_overrides={"item": pl.Int16, "ts": pl.Int32, "qty": pl.Int16, "price_c": pl.Int32},
    ).write_parquet(folder / "events.parquet")
    pl.DataFrame({"code": ["85123A", "22423", "POST"], "desc": ["HEART", "", None]}).head(
        items
    ).write_parquet(folder / "items.parquet")
    return folder


def test_orders_and_returns(tmp_path: Path) -> None:
    dataset = load_dataset("online-retail", path=write(tmp_path))
    events = dataset.events
    assert events["item_id"].to_list() == ["85123A", "22423", "85123A", "85123A", "POST"]
    assert events["action"].to_list() == ["purchase"] * 3 + ["return", "purchase"]
    assert events["value"].to_list() == pytest.approx([15.0, 14.99, 1.0, -1.0, 0.5])
    assert dataset.items.rows() == [("22423", "22423"), ("85123A", "HEART"), ("POST", "POST")]
    assert not dataset.spec.exclude_seen
    labels = label_events(events, dataset.spec)
    assert labels["label_engagement"].to_list() == [1, 0, 0, None, None]
    assert labels["known_at_engagement"].to_list()[:3] == [28 * DAY, 28 * DAY, 48 * DAY]
    assert labels["label_retention"].to_list() == [1, 1, 0, None, None]
    assert labels["label_monetization"].to_list() == [1, 0, 0, None, 0]


def test_item_numbers_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="beyond the 2 rows"):
        load_dataset("online-retail", path=write(tmp_path, items=2))


def test_missing_file_is_named(tmp_path: Path) -> None:
    (write(tmp_path) / "items.parquet").unlink()
    with pytest.raises(DataError, match=r"items\.parquet is missing"):
        load_dataset("online-retail", path=tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="shared Online Retail II is absent")
def test_real_orders() -> None:
    dataset = load_dataset("online-retail", path=REAL)
    assert dataset.events.height == 809_560
    assert dataset.events["user_id"].n_unique() == 5_942
    assert dataset.items.height == 4_772
    assert (dataset.events["value"] < 0).sum() == (dataset.events["action"] == "return").sum() > 0
    labels = label_events(dataset.events, dataset.spec)
    rates = {name: labels[f"label_{name}"].mean() for name in dataset.spec.task_names}
    expected = {"engagement": 0.109, "retention": 0.393, "monetization": 0.425}
    assert rates == pytest.approx(expected, abs=1e-3)
