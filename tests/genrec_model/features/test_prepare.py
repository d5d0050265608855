"""Vocabulary, split by time, sequences, digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_model.data.dataset import Dataset
from genrec_model.errors import ArtifactError, ConfigError, DataError
from genrec_model.features.digest import dataset_digest
from genrec_model.features.prepare import Features, prepare_features
from genrec_model.features.reserved import NUM_RESERVED, UNKNOWN
from genrec_model.features.split import TimeSplit
from genrec_model.features.vocabulary import Vocabulary


def test_vocabulary_knows_the_training_period_only(cyclic: Dataset, tmp_path: Path) -> None:
    late = cyclic.events.with_columns(
        item_id=pl.when(pl.col("timestamp") == pl.col("timestamp").max())
        .then(9999)
        .otherwise(pl.col("item_id"))
    )
    dataset = Dataset(spec=cyclic.spec, events=late, items=cyclic.items)
    made = prepare_features(dataset, tmp_path / "f")
    assert 9999 not in made.vocabulary.index_of
    assert UNKNOWN in made.sequences().items
    counts = made.vocabulary.train_counts
    assert counts[:NUM_RESERVED].tolist() == [0, 0, 0]
    training = late.filter(pl.col("timestamp") < made.dataset.split.validation)
    assert counts.sum() == training.height
    assert (np.diff(counts[NUM_RESERVED:]) <= 0).all()


def test_string_ids_and_unknown_ones(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["A", "B"], "train_count": [2, 1]})
    vocabulary = Vocabulary(items, ("x", "y"))
    assert vocabulary.encode_items(pl.Series(["b", "zz", "a"])).tolist() == [4, UNKNOWN, 3]
    assert vocabulary.encode_actions(pl.Series(["y", "q"])).tolist() == [3, 1]
    vocabulary.save(tmp_path / "items.parquet")
    again = Vocabulary.load(tmp_path / "items.parquet", ("x", "y"))
    assert again.index_of == {"a": 3, "b": 4}
    with pytest.raises(ArtifactError, match="not a vocabulary"):
        Vocabulary.load(tmp_path / "absent.parquet", ())


def test_rare_items_stay_unknown() -> None:
    events = pl.DataFrame({"item_id": [1, 1, 2, 2, 3]})
    titles = pl.DataFrame({"item_id": [1, 2, 3], "title": ["one", "two", "three"]})
    assert Vocabulary.build(events, titles, ("x",), min_count=2).item_ids == [1, 2]
    with pytest.raises(DataError, match="two or more"):
        Vocabulary.build(events, titles, ("x",), min_count=3)


def test_split_is_by_time() -> None:
    events = pl.DataFrame({"timestamp": np.arange(100)})
    split = TimeSplit.by_share(events, validation=0.1, test=0.2)
    assert (split.validation, split.test) == (70, 80)
    with pytest.raises(ConfigError, match="leave"):
        TimeSplit.by_share(events, validation=0.6, test=0.4)
    with pytest.raises(DataError, match="cannot be split by time"):
        TimeSplit.by_share(
            pl.DataFrame({"timestamp": np.zeros(10, np.int64)}), validation=0.1, test=0.1
        )


def test_sequences_keep_users_together(features: Features, cyclic: Dataset) -> None:
    sequences = features.sequences()
    assert len(sequences) == cyclic.events["user_id"].n_unique()
    assert sequences.offsets[-1] == cyclic.events.height
    split = features.dataset.split
    assert (
        sequences.before(split.validation).sum()
        == (cyclic.events["timestamp"] < split.validation).sum()
    )
    assert set(np.unique(sequences.labels)) <= {-1, 0, 1}
    known = sequences.labels >= 0
    assert (
        sequences.known_at[known] >= np.repeat(sequences.timestamps[:, None], 2, 1)[known]
    ).all()


def test_features_survive_their_folder(cyclic: Dataset, tmp_path: Path) -> None:
    made = prepare_features(cyclic, tmp_path / "f")
    again = Features.load(tmp_path / "f")
    assert again.dataset == made.dataset
    assert again.events.equals(made.events)
    with pytest.raises(ArtifactError, match="feature step"):
        Features.load(tmp_path / "absent")


def test_digest_follows_values_and_labelling_rules(cyclic: Dataset) -> None:
    digest = dataset_digest(cyclic.events, cyclic.spec)
    assert digest == dataset_digest(cyclic.events.clone(), cyclic.spec)
    other = cyclic.events.with_columns(value=pl.col("value") + 1)
    assert dataset_digest(other, cyclic.spec) != digest
    renamed = type(cyclic.spec).from_dict({**cyclic.spec.to_dict(), "exclude_seen": False})
    assert dataset_digest(cyclic.events, renamed) != digest
