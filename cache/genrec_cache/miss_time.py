"""What a row costs more from the host than from a slot, measured."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from genrec_cache.embedding_cache import CachedTable


def time_of_miss(table: CachedTable, ids: int = 4096, *, tries: int = 5) -> float:
    """Milliseconds that a row costs more from the host than from a slot, at least 0.

    Waits for the device; to be called while nothing else runs there. Nothing is counted.

    Args:
        table: the cache.
        ids: looked up at once.
        tries: the quickest counts.
    """
    inside = table.residents
    # All over the table: rows near each other come faster.
    drawn = np.random.default_rng(0).integers(0, table.num_rows, 4 * ids)
    outside = drawn[~np.isin(drawn, inside)]
    if not len(inside) or not len(outside):
        return 0.0
    hits, misses = (
        _quickest(table, torch.from_numpy(np.resize(some, ids)).to(table.device), tries)
        for some in (inside, outside)
    )
    return max(0.0, (misses - hits) / ids)


def _quickest(table: CachedTable, ids: Tensor, tries: int) -> float:
    """Milliseconds of one gather."""
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        table.gather(ids, counted=False)
        if table.device.type == "cuda":
            torch.cuda.current_stream(table.device).synchronize()
        best = min(best, time.perf_counter() - start)
    return best * 1e3
