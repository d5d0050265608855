"""Histories that the server knows, so that a request can name a user instead.

Letters in shapes: n events of a user, E events of all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_model.errors import DataError
from genrec_model.features.rows import Ints
from genrec_model.features.vocabulary import ItemId, Vocabulary

COLUMNS = ("user_id", "item_id", "timestamp", "action")


@dataclass(frozen=True, kw_only=True)
class IndexedHistory:
    """Events of one user in the indices of the model, oldest first.

    Args:
        items, actions: int64 [n], rows of the item and the action table.
        timestamps: int64 [n], unix seconds.
    """

    items: Ints
    actions: Ints
    timestamps: Ints

    def __len__(self) -> int:
        return len(self.items)

    def until(self, timestamp: int) -> IndexedHistory:
        """Events that are not later than that."""
        n = int(np.searchsorted(self.timestamps, timestamp, side="right"))
        return self.since(0, n)

    def since(self, start: int, end: int | None = None) -> IndexedHistory:
        """Events from `start` on, up to `end`."""
        part = slice(start, end)
        return IndexedHistory(
            items=self.items[part], actions=self.actions[part], timestamps=self.timestamps[part]
        )


class HistoryStore(ABC):
    """Histories by user; reading one has no effect."""

    @abstractmethod
    def get(self, user_id: ItemId) -> IndexedHistory | None:
        """All events of the user, or None where the store does not know them."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of users."""


class ParquetHistories(HistoryStore):
    """Histories of an event table, read once and kept in memory.

    Args:
        path: parquet file with `user_id`, `item_id`, `timestamp`, `action`, in any order. Items
            and actions that the model lacks become its "unknown", as in training.
        vocabulary: of the model.

    Raises:
        DataError: the file cannot be read or lacks a column.
    """

    def __init__(self, path: Path, vocabulary: Vocabulary) -> None:
        try:
            events = pl.read_parquet(path, columns=list(COLUMNS))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DataError(
                f"{path}: not an event table with {', '.join(COLUMNS)} ({error})"
            ) from error
        if not events["timestamp"].dtype.is_integer():
            raise DataError(f"{path}: timestamp is {events['timestamp'].dtype}, not unix seconds")
        events = events.drop_nulls().sort("user_id", "timestamp", maintain_order=True)
        self._events = IndexedHistory(
            items=vocabulary.encode_items(events["item_id"]),
            actions=vocabulary.encode_actions(events["action"]),
            timestamps=events["timestamp"].to_numpy().astype(np.int64),
        )
        users = events["user_id"].rle().struct.unnest()
        ends = users["len"].cast(pl.Int64).cum_sum().to_list()
        self._span: dict[ItemId, tuple[int, int]] = (
            {
                user: (start, end)
                for user, start, end in zip(
                    users["value"].to_list(), [0, *ends[:-1]], ends, strict=True
                )
            }
            if ends
            else {}
        )

    def get(self, user_id: ItemId) -> IndexedHistory | None:
        """As the base class says."""
        span = self._span.get(user_id)
        return None if span is None else self._events.since(*span)

    def __len__(self) -> int:
        return len(self._span)
