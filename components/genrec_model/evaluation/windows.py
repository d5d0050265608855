"""Which history the model would have seen before an event, for many events at once.

Serving cuts a long history to its newest events in whole chunks. Evaluation does exactly the
same; events whose cut histories start alike share one pass through the model, as attention is
causal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from genrec_model.features.rows import Ints, UserRows, history_rows, window_start
from genrec_model.features.sequences import UserSequences
from genrec_model.hstu import HSTUConfig


class TargetWindow(NamedTuple):
    """A stretch of one user's events, and the targets that follow it.

    first: index of the stretch's first event.
    stop: index past the last target.
    targets: int64 [n], indices of events to predict, each in ``[first, stop)``.
    """

    first: int
    stop: int
    targets: Ints


def target_windows(
    sequences: UserSequences, targets: Ints, config: HSTUConfig
) -> list[TargetWindow]:
    """Group the targets (indices of events) by the history that precedes them."""
    user_of = np.searchsorted(sequences.offsets, targets, side="right") - 1
    groups: dict[tuple[int, int], list[int]] = {}
    for user, target in zip(user_of.tolist(), targets.tolist(), strict=True):
        begin = int(sequences.offsets[user])
        start = begin + window_start(target - begin, config.max_history, config.chunk_size)
        groups.setdefault((user, start), []).append(target)
    return [
        TargetWindow(start, max(group) + 1, np.array(sorted(group)))
        for (_, start), group in groups.items()
    ]


def window_rows(sequences: UserSequences, window: TargetWindow) -> UserRows:
    """History rows up to the last target's predecessor; row ``target - first`` precedes it."""
    span = slice(window.first, window.stop - 1)
    return history_rows(
        sequences.items[span],
        sequences.actions[span],
        sequences.timestamps[span],
        now=int(sequences.timestamps[window.first]),
    )


def batched(windows: list[TargetWindow], max_rows: int) -> Iterator[list[TargetWindow]]:
    """Windows of like length together, at most `max_rows` padded rows a batch."""
    batch: list[TargetWindow] = []
    longest = 0
    for window in sorted(windows, key=lambda w: w.stop - w.first):
        longest = max(longest, window.stop - window.first)
        if batch and longest * (len(batch) + 1) > max_rows:
            yield batch
            batch, longest = [], window.stop - window.first
        batch.append(window)
    if batch:
        yield batch
