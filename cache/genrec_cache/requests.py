"""Requests that a stream of events would have brought, in batches.

A request asks about a user's latest events; what it looks up are their items. One comes with an
event whose user has a past: all of an event's past, nothing of the event itself.

Letters in shapes: N events, K unique ids of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class RequestRule:
    """Which events bring a request, and how requests are batched.

    Args:
        share: of the events that bring one, drawn with a fixed seed.
        once_per_moment: at most one request a user and second: the lines of an order are one.
        histories: requests of a batch.
        events: of a history at most.

    Raises:
        ValueError: the share is not in (0, 1], or a size is below 1.
    """

    share: float = 1.0
    once_per_moment: bool = False
    histories: int = 128
    events: int = 200

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or min(self.histories, self.events) < 1:
            raise ValueError("share must be in (0, 1], histories and events at least 1")


def request_batches(users: Ints, items: Ints, times: Ints, rule: RequestRule) -> list[Ints]:
    """Unique item ids of each full batch of requests.

    Args:
        users, items: of each event in order of time, from 0, [N].
        times: unix seconds, [N].
        rule: which events bring a request.

    Returns:
        Ids in ascending order, [K] each; the last requests, too few for a batch, are left out.
    """
    drawn = np.random.default_rng(0).random(len(users)) < rule.share
    past: dict[int, list[int]] = {}
    asked: dict[int, int] = {}
    batch: list[list[int]] = []
    out: list[Ints] = []
    for user, item, moment, take in zip(
        users.tolist(), items.tolist(), times.tolist(), drawn.tolist(), strict=True
    ):
        history = past.setdefault(user, [])
        if history and take and not (rule.once_per_moment and asked.get(user) == moment):
            asked[user] = moment
            batch.append(history[-rule.events :])
            if len(batch) == rule.histories:
                out.append(np.unique(np.concatenate(batch)))
                batch = []
        history.append(item)
    return out
