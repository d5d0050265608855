"""Every user's events as arrays, in the indices of one vocabulary.

Letters in shapes: E events, U users, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_model.features.rows import Ints
from genrec_model.features.vocabulary import Vocabulary

#: A label that the data does not tell.
NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class UserSequences:
    """Events of all users, user by user, each in time order.

    Args:
        offsets: int64 [U + 1], first event of each user.
        items, actions, timestamps: int64 [E].
        labels: int8 [E, T], 0, 1 or `NO_LABEL`.
        known_at: int64 [E, T], unix second at which the label is known.
        users: ids, in order of `offsets`.
    """

    offsets: Ints
    items: Ints
    actions: Ints
    timestamps: Ints
    labels: npt.NDArray[np.int8]
    known_at: Ints
    users: list[int | str]

    @classmethod
    def encode(
        cls, labelled: pl.DataFrame, vocabulary: Vocabulary, tasks: Sequence[str]
    ) -> UserSequences:
        """From a labelled event table, sorted by user and time."""
        users = labelled["user_id"].rle().struct.unnest()
        return cls(
            offsets=np.concatenate([[0], users["len"].cast(pl.Int64).to_numpy().cumsum()]),
            items=vocabulary.encode_items(labelled["item_id"]),
            actions=vocabulary.encode_actions(labelled["action"]),
            timestamps=labelled["timestamp"].to_numpy().astype(np.int64),
            labels=_columns(labelled, "label_", tasks, NO_LABEL).astype(np.int8),
            known_at=_columns(labelled, "known_at_", tasks, np.iinfo(np.int64).max),
            users=users["value"].to_list(),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def before(self, timestamp: int) -> Ints:
        """int64 [U], number of each user's events before that time."""
        earlier = np.concatenate([[0], (self.timestamps < timestamp).cumsum()])
        counts: Ints = earlier[self.offsets[1:]] - earlier[self.offsets[:-1]]
        return counts


def _columns(frame: pl.DataFrame, prefix: str, tasks: Sequence[str], missing: int) -> Ints:
    if not tasks:
        return np.empty((frame.height, 0), np.int64)
    columns = [frame[prefix + task].cast(pl.Int64).fill_null(missing).to_numpy() for task in tasks]
    return np.stack(columns, axis=1)
