import polars as pl
import pytest

from genrec_model.errors import DataError
from genrec_model.features.reserved import UNKNOWN, UNKNOWN_ACTION
from genrec_serving.histories import ParquetHistories


@pytest.fixture(scope="module")
def store(histories_file, served_artifact) -> ParquetHistories:
    return ParquetHistories(histories_file, served_artifact.vocabulary)


def test_gives_a_users_events_in_time_order(store, truth) -> None:
    assert len(store) == 2
    history = store.get(1)
    wanted = truth.history(20, seed=7)
    assert history.items.tolist() == wanted.items.tolist()
    assert history.actions.tolist() == wanted.actions.tolist()
    assert history.timestamps.tolist() == wanted.timestamps.tolist()


def test_what_the_model_lacks_is_unknown(store) -> None:
    history = store.get(2)
    assert history.items.tolist() == [6, UNKNOWN]
    assert history.actions.tolist() == [2, UNKNOWN_ACTION]


def test_until(store, truth) -> None:
    assert len(store.get(2).until(truth.now - 50)) == 1
    assert len(store.get(2).until(truth.now - 51)) == 0


@pytest.mark.parametrize("user", [3, "1", -1])
def test_an_unknown_user_is_none(store, user) -> None:
    assert store.get(user) is None


def test_how_a_table_spells_its_users(store, tmp_path, served_artifact) -> None:
    assert [store.user_key(user) for user in (2, "2", "-2", "02", "2 ", "x")] == [
        2, 2, -2, "02", "2 ", "x",
    ]  # fmt: skip
    path = tmp_path / "events.parquet"
    row = {"user_id": ["1"], "item_id": [1000], "timestamp": [1], "action": ["view"]}
    pl.DataFrame(row).write_parquet(path)
    texts = ParquetHistories(path, served_artifact.vocabulary)
    assert (texts.user_key(1), texts.user_key("1")) == ("1", "1")


def test_merged_histories_are_in_time_order(store) -> None:
    one, other = store.get(1), store.get(2)
    merged = one.merged(other)
    assert len(merged) == 22
    assert (merged.timestamps[1:] >= merged.timestamps[:-1]).all()
    same = other.merged(other)
    assert same.items.tolist() == [6, 6, UNKNOWN, UNKNOWN]


def test_an_empty_table(tmp_path, served_artifact) -> None:
    path = tmp_path / "events.parquet"
    schema = {"user_id": pl.Int64, "item_id": pl.Int64, "timestamp": pl.Int64, "action": pl.String}
    pl.DataFrame(schema=schema).write_parquet(path)
    store = ParquetHistories(path, served_artifact.vocabulary)
    assert len(store) == 0
    assert store.get(1) is None


def test_a_missing_column_is_named(tmp_path, served_artifact) -> None:
    path = tmp_path / "events.parquet"
    pl.DataFrame({"user_id": [1], "item_id": [1], "timestamp": [1]}).write_parquet(path)
    with pytest.raises(DataError, match="action"):
        ParquetHistories(path, served_artifact.vocabulary)


def test_times_must_be_integers(tmp_path, served_artifact) -> None:
    path = tmp_path / "events.parquet"
    row = {"user_id": [1], "item_id": [1], "timestamp": ["now"], "action": ["view"]}
    pl.DataFrame(row).write_parquet(path)
    with pytest.raises(DataError, match="timestamp"):
        ParquetHistories(path, served_artifact.vocabulary)


def test_no_file(tmp_path, served_artifact) -> None:
    with pytest.raises(DataError, match="nowhere"):
        ParquetHistories(tmp_path / "nowhere.parquet", served_artifact.vocabulary)
