"""Which row of the item and action tables an id has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_model.errors import ArtifactError, DataError
from genrec_model.features.reserved import (
    NUM_RESERVED,
    NUM_RESERVED_ACTIONS,
    UNKNOWN,
    UNKNOWN_ACTION,
)
from genrec_model.files import replacing

ItemId = int | str
Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Vocabulary:
    """Items and actions that a model knows.

    Args:
        items: columns `item_id`, `title`, `train_count` (events in the training period), one row
            an item; the item of row ``i`` has the index ``i + NUM_RESERVED``.
        actions: names; the action ``i`` has the index ``i + NUM_RESERVED_ACTIONS``.
    """

    items: pl.DataFrame
    actions: tuple[str, ...]

    @classmethod
    def build(
        cls, events: pl.DataFrame, items: pl.DataFrame, actions: Sequence[str], min_count: int = 1
    ) -> Vocabulary:
        """Vocabulary of the items of `events` (the training period), most frequent first.

        Args:
            events: event table.
            items: columns `item_id`, `title`.
            actions: all actions of the data set.
            min_count: rarer items stay unknown.

        Raises:
            DataError: no item is frequent enough.
        """
        counts = (
            events.group_by("item_id")
            .agg(pl.len().cast(pl.Int64).alias("train_count"))
            .filter(pl.col("train_count") >= min_count)
            .join(items.select("item_id", "title"), on="item_id", how="left")
            .with_columns(pl.col("title").fill_null(pl.col("item_id").cast(pl.String)))
            .sort(["train_count", "item_id"], descending=[True, False])
            .select("item_id", "title", "train_count")
        )
        if counts.height < 2:
            raise DataError(
                f"only {counts.height} item(s) occur at least {min_count} time(s) in the training "
                "period; a recommender needs two or more"
            )
        return cls(counts, tuple(actions))

    @property
    def num_items(self) -> int:
        """Rows of the item table, the reserved ones included."""
        return int(self.items.height) + NUM_RESERVED

    @property
    def num_actions(self) -> int:
        """Rows of the action table, the reserved ones included."""
        return len(self.actions) + NUM_RESERVED_ACTIONS

    @cached_property
    def item_ids(self) -> list[ItemId]:
        """Id of each item, in order of its index."""
        return self.items["item_id"].to_list()

    @cached_property
    def titles(self) -> list[str]:
        """Title of each item, in order of its index."""
        return self.items["title"].to_list()

    @cached_property
    def index_of(self) -> dict[ItemId, int]:
        """Index of each item id."""
        return {item: i + NUM_RESERVED for i, item in enumerate(self.item_ids)}

    @cached_property
    def action_index_of(self) -> dict[str, int]:
        """Index of each action."""
        return {name: i + NUM_RESERVED_ACTIONS for i, name in enumerate(self.actions)}

    @cached_property
    def train_counts(self) -> Index:
        """int64 [num_items], training events of each index; 0 for the reserved rows."""
        counts = self.items["train_count"].to_numpy()
        return np.concatenate([np.zeros(NUM_RESERVED, np.int64), counts])

    def encode_items(self, ids: pl.Series) -> Index:
        """Index of each id, `UNKNOWN` where the vocabulary lacks it."""
        return self._encode(ids, list(self.index_of), NUM_RESERVED, UNKNOWN)

    def encode_actions(self, names: pl.Series) -> Index:
        """Index of each action, `UNKNOWN_ACTION` where the vocabulary lacks it."""
        return self._encode(names, list(self.actions), NUM_RESERVED_ACTIONS, UNKNOWN_ACTION)

    @staticmethod
    def _encode(values: pl.Series, known: Sequence[ItemId], first: int, unknown: int) -> Index:
        keys = pl.Series("key", known, dtype=values.dtype, strict=False)
        table = pl.DataFrame({"key": keys, "index": np.arange(len(known)) + first})
        joined = (
            values.alias("key").to_frame().join(table, on="key", how="left", maintain_order="left")
        )
        return joined["index"].fill_null(unknown).to_numpy().astype(np.int64)

    def save(self, path: Path) -> None:
        """Write the items to a parquet file; the actions are in the data set's description."""
        with replacing(path) as temporary:
            self.items.write_parquet(temporary)

    @classmethod
    def load(cls, path: Path, actions: Sequence[str]) -> Vocabulary:
        """Read what `save` wrote.

        Raises:
            ArtifactError: the file is missing or is not a vocabulary.
        """
        try:
            items = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ArtifactError(f"{path}: not a vocabulary ({error})") from error
        if items.columns != ["item_id", "title", "train_count"]:
            raise ArtifactError(f"{path}: not a vocabulary, its columns are {items.columns}")
        return cls(items, tuple(actions))
