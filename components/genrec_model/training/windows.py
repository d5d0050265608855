"""Training windows: stretches of a user's training period, and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from genrec_model.features.reserved import UNKNOWN
from genrec_model.features.rows import Ints, Rows, UserRows, collate, history_rows
from genrec_model.features.sequences import NO_LABEL, UserSequences
from genrec_model.features.split import TimeSplit
from genrec_model.training.options import TrainingOptions


class Window(NamedTuple):
    """Events ``[start, stop)`` of one user."""

    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """A batch and what is to be predicted from it.

    Args:
        rows: input rows, R in all.
        next_rows: int64 [P], rows that predict a next item.
        next_items: int64 [P], those items.
        task_rows: int64 [Q], candidate rows.
        labels: float [Q, T], 0 or 1; anything where `known` is 0.
        known: float [Q, T], 1 where the label counts.
    """

    rows: Rows
    next_rows: Tensor
    next_items: Tensor
    task_rows: Tensor
    labels: Tensor
    known: Tensor

    def to(self, device: torch.device) -> TrainingBatch:
        """The same batch on another device."""
        return TrainingBatch(
            rows=self.rows.to(device),
            **{
                name: getattr(self, name).to(device)
                for name in ("next_rows", "next_items", "task_rows", "labels", "known")
            },
        )


def training_windows(sequences: UserSequences, split: TimeSplit, max_history: int) -> list[Window]:
    """Stretches of at most `max_history` events that cover each user's training period.

    They are laid from the user's last training event backwards: the newest window is full.
    """
    windows = []
    for first, count in zip(sequences.offsets, sequences.before(split.validation), strict=False):
        for stop in range(int(count), 0, -max_history):
            windows.append(Window(int(first) + max(stop - max_history, 0), int(first) + stop))
    return windows


def epoch_batches(
    sequences: UserSequences,
    windows: list[Window],
    split: TimeSplit,
    options: TrainingOptions,
    rng: np.random.Generator,
) -> Iterator[TrainingBatch]:
    """All windows once, in random order; windows of like length share a batch."""
    lengths = np.array([window.stop - window.start for window in windows])
    # A little noise on the length: batches differ from epoch to epoch, padding stays small.
    order = np.argsort(lengths * rng.uniform(0.9, 1.1, len(windows)))
    groups: list[list[Window]] = [[]]
    rows = 0
    for index in order:
        if rows and rows + lengths[index] > options.batch_rows:
            groups.append([])
            rows = 0
        groups[-1].append(windows[index])
        rows += int(lengths[index])
    for group in rng.permutation(len(groups)):
        yield make_batch(sequences, groups[group], split, options.task_candidates, rng)


def make_batch(
    sequences: UserSequences,
    windows: list[Window],
    split: TimeSplit,
    task_candidates: int,
    rng: np.random.Generator,
) -> TrainingBatch:
    """Rows and targets of some windows."""
    users, picked, known = [], [], []
    for window in windows:
        usable = _usable_labels(sequences, window, split)
        chosen = np.flatnonzero(usable.any(axis=1))
        if len(chosen) > task_candidates:
            chosen = np.sort(rng.choice(chosen, task_candidates, replace=False))
        users.append(_window_rows(sequences, window, chosen))
        picked.append(window.start + chosen)
        known.append(usable[chosen])
    rows = collate(users)

    history, targets, candidate_rows = [], [], []
    offset = 0
    for user, window in zip(users, windows, strict=True):
        items = sequences.items[window.start : window.stop]
        predicted = np.flatnonzero(items != UNKNOWN)
        history.append(offset + predicted)  # the row before event i is row i, as row 0 starts
        targets.append(items[predicted])
        offset += len(user.items)
        candidate_rows.append(offset + np.arange(len(user.candidates)))
        offset += len(user.candidates)
    labels = sequences.labels[np.concatenate(picked)]
    return TrainingBatch(
        rows=rows,
        next_rows=torch.from_numpy(np.concatenate(history)),
        next_items=torch.from_numpy(np.concatenate(targets)),
        task_rows=torch.from_numpy(np.concatenate(candidate_rows)),
        labels=torch.from_numpy(labels.astype(np.float32)),
        known=torch.from_numpy(np.concatenate(known).astype(np.float32)),
    )


def _usable_labels(
    sequences: UserSequences, window: Window, split: TimeSplit
) -> npt.NDArray[np.bool_]:
    """Which labels of a window's events were known before validation starts: bool [n, T]."""
    span = slice(window.start, window.stop)
    usable: npt.NDArray[np.bool_] = (sequences.labels[span] != NO_LABEL) & (
        sequences.known_at[span] < split.validation
    )
    return usable


def _window_rows(sequences: UserSequences, window: Window, chosen: Ints) -> UserRows:
    """A window's history, and its chosen events again as candidates that see what came before."""
    span = slice(window.start, window.stop)
    items, times = sequences.items[span], sequences.timestamps[span]
    history = history_rows(items, sequences.actions[span], times, now=int(times[0]))
    return UserRows(
        items=history.items,
        actions=history.actions,
        timestamps=history.timestamps,
        candidates=items[chosen],
        candidate_times=times[chosen],
        candidate_positions=chosen + 1,
    )
