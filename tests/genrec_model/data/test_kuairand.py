"""KuaiRand: its logs, tiny and real."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from genrec_model.data.catalog import load_dataset
from genrec_model.data.labels import label_events
from genrec_model.errors import DataError

REAL = Path(__file__).parents[3] / "../shared/data/kuairand-subset"
START_MS = 1_650_000_000_000

LOG = pl.DataFrame(
    {
        "user_id": [1, 1, 1, 2, 2, 2],
        "video_id": [7, 8, 9, 7, 8, 9],
        # The first two share a second and are in the wrong order.
        "time_ms": [START_MS + s for s in (900, 100, 7_200_000, 0, 1_000, 30_000_000)],
        "is_click": [0, 1, 1, 1, 0, 0],
        "is_follow": [0, 0, 1, 0, 0, 0],
        "is_comment": [0, 0, 1, 1, 0, 0],
        "is_forward": [0, 0, 1, 0, 1, 0],
        "long_view": [0, 0, 1, 1, 0, 1],
        "play_time_ms": [500, 1_000, 90_000, 10, 10, 5],
        "duration_ms": [1_000, 1_000, 1_000, 0, 20, 20],
    }
)


def check_log(path: Path) -> None:
    dataset = load_dataset("kuairand", path=path)
    events = dataset.events
    assert events["item_id"].to_list() == [8, 7, 9, 7, 8, 9]
    assert events["timestamp"].to_list()[:3] == [1_650_000_000, 1_650_000_000, 1_650_007_200]
    assert events["action"].to_list() == [
        "click",
        "impression",
        "follow",
        "comment",
        "forward",
        "long_view",
    ]
    assert events["value"].to_list() == [1.0, 0.5, 5.0, 0.0, 0.5, 0.25]
    labels = label_events(events, dataset.spec)
    assert labels["label_engagement"].to_list() == [0, 0, 1, 1, 1, 1]
    # Back after two hours, then never; the last event's horizon has not passed.
    assert labels["label_retention"].to_list() == [1, 1, 0, 0, 0, None]
    assert dataset.spec.unlabelled == {"monetization": "KuaiRand records no spending"}


def test_file_and_folder(tmp_path: Path) -> None:
    LOG.write_csv(tmp_path / "interactions.tsv", separator="\t")
    check_log(tmp_path)
    check_log(tmp_path / "interactions.tsv")


def test_logs_of_the_original_distribution(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    more = LOG.with_columns(is_like=0)
    more.head(2).write_csv(data / "log_standard_4_08_to_4_21_1k.csv")
    more.tail(4).write_csv(data / "log_standard_4_22_to_5_08_1k.csv")
    check_log(tmp_path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    LOG.drop("long_view").write_csv(tmp_path / "interactions.tsv", separator="\t")
    with pytest.raises(DataError, match=r"interactions\.tsv: missing column long_view"):
        load_dataset("kuairand", path=tmp_path)


def test_empty_folder_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no KuaiRand here"):
        load_dataset("kuairand", path=tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason="shared KuaiRand subset is absent")
def test_real_subset() -> None:
    dataset = load_dataset("kuairand", path=REAL)
    assert dataset.events.height == 41_828
    assert dataset.events["user_id"].n_unique() == 664
    assert dataset.items.height == 9_359
    labels = label_events(dataset.events, dataset.spec)
    assert labels["label_engagement"].mean() == pytest.approx(0.473, abs=1e-3)
    assert labels["label_retention"].mean() == pytest.approx(0.552, abs=1e-3)
