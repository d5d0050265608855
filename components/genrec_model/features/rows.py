"""Input rows of a batch: how a history and its candidates are laid out.

Letters in shapes: R rows of all sequences, h history rows of one sequence (its start row and its
events), c candidates of one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec_kernels.jagged import JaggedRows
from genrec_model.features.reserved import NO_ACTION, START

Ints = npt.NDArray[np.int64]


def _none() -> Ints:
    return np.empty(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Input rows of a batch.

    Args:
        items: int64 [R], row of the item table.
        actions: int64 [R], row of the action table (0 for the start row and for candidates).
        timestamps: int64 [R], unix seconds.
        positions: int64 [R], history rows of its sequence that the row sees besides itself,
            which is also its position.
        layout: which rows form a sequence.
    """

    items: Tensor
    actions: Tensor
    timestamps: Tensor
    positions: Tensor
    layout: JaggedRows

    def to(self, device: torch.device) -> Rows:
        """The same rows on another device."""
        if self.items.device == device:
            return self
        return Rows(
            items=self.items.to(device),
            actions=self.actions.to(device),
            timestamps=self.timestamps.to(device),
            positions=self.positions.to(device),
            layout=self.layout.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class UserRows:
    """Rows of one sequence.

    Args:
        items, actions, timestamps: int64 [h], the start row first.
        candidates: int64 [c], rows of the item table.
        candidate_times: int64 [c], when the candidate would be shown.
        candidate_positions: int64 [c], history rows that the candidate sees.
    """

    items: Ints
    actions: Ints
    timestamps: Ints
    candidates: Ints = field(default_factory=_none)
    candidate_times: Ints = field(default_factory=_none)
    candidate_positions: Ints = field(default_factory=_none)


def window_start(num_events: int, max_history: int, chunk_size: int) -> int:
    """First event of a history that the model sees.

    The oldest events leave in whole chunks: were they to leave one by one, every new event would
    change the whole prefix, and no cached page could be used again.
    """
    surplus = max(num_events - max_history, 0)
    return min(-(-surplus // chunk_size) * chunk_size, num_events)


def history_rows(items: Ints, actions: Ints, timestamps: Ints, *, now: int) -> UserRows:
    """Rows of a history that is already cut to the model's length, with its start row.

    Args:
        items, actions, timestamps: int64 [n], oldest first; n may be 0.
        now: unix seconds, the start row's time where there is no event.
    """
    first = timestamps[0] if len(timestamps) else now
    return UserRows(
        items=_behind(START, items),
        actions=_behind(NO_ACTION, actions),
        timestamps=_behind(first, timestamps),
    )


def _behind(first: int, column: Ints) -> Ints:
    """`first`, then the column."""
    out = np.empty(len(column) + 1, np.int64)
    out[0] = first
    out[1:] = column
    return out


def with_candidates(rows: UserRows, candidates: Ints, *, now: int) -> UserRows:
    """The same history with candidates that see all of it."""
    return UserRows(
        items=rows.items,
        actions=rows.actions,
        timestamps=rows.timestamps,
        candidates=candidates,
        candidate_times=np.full(len(candidates), now, np.int64),
        candidate_positions=np.full(len(candidates), len(rows.items), np.int64),
    )


def collate(users: Sequence[UserRows]) -> Rows:
    """One batch of all sequences' rows, history rows before candidate rows in each."""
    items, actions, timestamps, positions = [], [], [], []
    for user in users:
        items += [user.items, user.candidates]
        actions += [user.actions, np.full(len(user.candidates), NO_ACTION, np.int64)]
        timestamps += [user.timestamps, user.candidate_times]
        positions += [np.arange(len(user.items)), user.candidate_positions]
    return Rows(
        items=torch.from_numpy(np.concatenate(items)),
        actions=torch.from_numpy(np.concatenate(actions)),
        timestamps=torch.from_numpy(np.concatenate(timestamps)),
        positions=torch.from_numpy(np.concatenate(positions)),
        layout=JaggedRows(
            history_lengths=torch.tensor([len(user.items) for user in users]),
            num_candidates=torch.tensor([len(user.candidates) for user in users]),
        ),
    )
