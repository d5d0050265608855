"""Histories of a data set in the indices of a model: what the server knows of users from the start.

Letters in shapes: n events of a user, E events of all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from genrec_model.errors import DataError
from genrec_model.features.rows import Ints
from genrec_model.features.vocabulary import ItemId, Vocabulary

#: As Python writes an integer of 64 bits or so, so that no two texts are one user.
_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,18}")

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

    def merged(self, other: IndexedHistory) -> IndexedHistory:
        """Events of both in order of time; of one second, those of `other` last."""
        items = np.concatenate([self.items, other.items])
        actions = np.concatenate([self.actions, other.actions])
        timestamps = np.concatenate([self.timestamps, other.timestamps])
        order = np.argsort(timestamps, kind="stable")
        return IndexedHistory(
            items=items[order], actions=actions[order], timestamps=timestamps[order]
        )

    def followed_by(self, other: IndexedHistory) -> IndexedHistory:
        """Events of both, where those of `other` are not earlier."""
        return IndexedHistory(
            items=np.concatenate([self.items, other.items]),
            actions=np.concatenate([self.actions, other.actions]),
            timestamps=np.concatenate([self.timestamps, other.timestamps]),
        )

    def since(self, start: int, end: int | None = None) -> IndexedHistory:
        """Events from `start` on, up to `end`."""
        part = slice(start, end)
        return IndexedHistory(
            items=self.items[part], actions=self.actions[part], timestamps=self.timestamps[part]
        )


class ParquetHistories:
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
        self._integer_ids = events["user_id"].dtype.is_integer()
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
        """All events of the user, or None for a user who is not in the table."""
        span = self._span.get(user_id)
        return None if span is None else self._events.since(*span)

    def user_key(self, user_id: ItemId) -> ItemId:
        """The id as this table spells it: 42 for "42" where its ids are integers, and back."""
        if self._integer_ids and isinstance(user_id, str):
            return int(user_id) if _INTEGER.fullmatch(user_id) else user_id
        return user_id if self._integer_ids else str(user_id)

    def __len__(self) -> int:
        return len(self._span)
