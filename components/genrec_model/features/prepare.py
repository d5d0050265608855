"""The feature step: labelled events, vocabulary and time split in one folder.

::

    events.parquet    events with their labels, sorted by user and time
    items.parquet     vocabulary of the training period
    features.json     data set, digest, split
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from genrec_model.artifact import DatasetInfo
from genrec_model.data.dataset import Dataset
from genrec_model.data.labels import label_events
from genrec_model.errors import ArtifactError
from genrec_model.features.digest import dataset_digest
from genrec_model.features.sequences import UserSequences
from genrec_model.features.split import TimeSplit
from genrec_model.features.vocabulary import Vocabulary
from genrec_model.files import read_json, replacing, write_json


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """How features are made.

    Args:
        validation_share, test_share: shares of the events in the last two periods.
        min_item_count: training events under which an item stays unknown.
    """

    validation_share: float = 0.1
    test_share: float = 0.1
    min_item_count: int = 1


@dataclass(frozen=True)
class Features:
    """What the feature step made."""

    events: pl.DataFrame
    vocabulary: Vocabulary
    dataset: DatasetInfo

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks that the data set labels."""
        return tuple(task.name for task in self.dataset.spec.tasks)

    def sequences(self, vocabulary: Vocabulary | None = None) -> UserSequences:
        """Events in the indices of this or another model's vocabulary."""
        return UserSequences.encode(self.events, vocabulary or self.vocabulary, self.tasks)

    @classmethod
    def load(cls, folder: Path) -> Features:
        """Read what `prepare_features` wrote."""
        if not (folder / "features.json").is_file():
            raise ArtifactError(f"{folder}: no features here; run the feature step first")
        dataset = DatasetInfo.from_dict(read_json(folder / "features.json"))
        vocabulary = Vocabulary.load(folder / "items.parquet", dataset.spec.actions)
        return cls(pl.read_parquet(folder / "events.parquet"), vocabulary, dataset)


def prepare_features(
    dataset: Dataset, folder: Path, options: FeatureOptions | None = None
) -> Features:
    """Label, split and index a data set, and write it to `folder`.

    Raises:
        ConfigError, DataError: see `TimeSplit.by_share` and `Vocabulary.build`.
    """
    options = options or FeatureOptions()
    split = TimeSplit.by_share(
        dataset.events, validation=options.validation_share, test=options.test_share
    )
    training = dataset.events.filter(pl.col("timestamp") < split.validation)
    vocabulary = Vocabulary.build(
        training, dataset.items, dataset.spec.actions, options.min_item_count
    )
    info = DatasetInfo(
        spec=dataset.spec,
        digest=dataset_digest(dataset.events, dataset.spec),
        split=split,
        num_events=dataset.events.height,
        num_users=dataset.events["user_id"].n_unique(),
    )
    labelled = label_events(dataset.events, dataset.spec)
    with replacing(folder) as temporary:
        temporary.mkdir()
        labelled.write_parquet(temporary / "events.parquet")
        vocabulary.save(temporary / "items.parquet")
        write_json(temporary / "features.json", info.to_dict())
    return Features(labelled, vocabulary, info)
