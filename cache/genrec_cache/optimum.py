"""The best that any policy could do, knowing the future.

Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal
1966, with the freedom not to store an item at all.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def next_uses(stream: Ints) -> Ints:
    """Position of the next access to the same id, [N]; N where there is none.

    Args:
        stream: ids, [N].
    """
    order = np.argsort(stream, kind="stable")
    out = np.full(len(stream), len(stream), np.int64)
    same = stream[order[1:]] == stream[order[:-1]]
    out[order[:-1][same]] = order[1:][same]
    return out


def optimum_hits(stream: Ints, capacity: int) -> int:
    """Most hits that a cache of so many slots can have on a stream, starting cold.

    Args:
        stream: ids in the order of their accesses.
        capacity: slots, at least 0.
    """
    hits = 0
    if not capacity:
        return hits
    never = len(stream)
    due: dict[int, int] = {}
    farthest: list[tuple[int, int]] = []
    for item, again in zip(stream.tolist(), next_uses(stream).tolist(), strict=True):
        if item in due:
            hits += 1
        elif again == never:
            continue
        elif len(due) >= capacity:
            # An entry of the heap is stale once its item was used again or left.
            while due.get(farthest[0][1]) != -farthest[0][0]:
                heapq.heappop(farthest)
            if -farthest[0][0] <= again:
                continue
            del due[heapq.heappop(farthest)[1]]
        due[item] = again
        heapq.heappush(farthest, (-again, item))
    return hits
