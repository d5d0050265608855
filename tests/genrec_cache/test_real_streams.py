"""What the policies reach on real data: the figures that a change must not lose.

Data sets are read by their own files' columns: this package knows nothing of the model's readers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_cache.page_replay import HistoryRule, page_hits, visits_of
from genrec_cache.replay import batch_hits, hit_rate
from genrec_cache.requests import RequestRule, request_batches

SHARED = Path(__file__).parents[3] / "shared" / "data"

Stream = tuple[np.ndarray, list[np.ndarray], int]
Events = tuple[np.ndarray, np.ndarray]


def movielens() -> Stream:
    table = pl.read_parquet(SHARED / "ml-1m" / "ratings.parquet").sort("user", "pos")
    return stream(table, "user", "movie", "timestamp", RequestRule(share=0.1))


def online_retail() -> Stream:
    table = pl.read_parquet(SHARED / "online-retail-ii" / "events.parquet")
    # The lines of an order stay as they were: neighbours come again.
    table = table.sort("user", "ts", maintain_order=True)
    return stream(table, "user", "item", "ts", RequestRule(once_per_moment=True))


def kuairand() -> Stream:
    table = pl.read_csv(SHARED / "kuairand-subset" / "interactions.tsv", separator="\t")
    table = table.with_columns(pl.col("time_ms") // 1000).sort("user_id", "time_ms")
    return stream(table, "user_id", "video_id", "time_ms", RequestRule())


def stream(table: pl.DataFrame, user: str, item: str, time: str, rule: RequestRule) -> Stream:
    table = table.sort(time, maintain_order=True)
    items, ids = np.unique(table[item].to_numpy(), return_inverse=True)
    users = np.unique(table[user].to_numpy(), return_inverse=True)[1]
    return ids, request_batches(users, ids, table[time].to_numpy(), rule), len(items)


# Share of the gap from LRU to the optimum that must be closed by access; the goal is 50 %.
# Measured: 66.6, 64.9 and 50.9 %; without rows brought in by association 57.5, 48.1 and 50.9 %.
@pytest.mark.parametrize(
    ("folder", "load", "gap", "look_ahead"),
    [
        ("ml-1m", movielens, 0.64, 0.316),
        ("online-retail-ii", online_retail, 0.62, 0.227),
        ("kuairand-subset", kuairand, 0.5, 0.540),
    ],
)
def test_one_setting_serves_all_data_sets(
    folder: str, load: Callable[[], Stream], gap: float, look_ahead: float
) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{folder} is not on this machine")
    ids, batches, items = load()
    slots = round(0.1 * items)
    lru, ours, best = (
        hit_rate(ids, items, slots, policy=policy) for policy in ("lru", "genrec", "optimum")
    )
    assert (ours - lru) / (best - lru) > gap
    counted = batch_hits(batches, items, slots, policy="decayed-lfu")
    found = batch_hits(batches, items, slots, policy="genrec")
    # By batch: no fewer hits, to a quarter of a point, at no more copies.
    assert found.unique_hit_rate > counted.unique_hit_rate - 0.0025
    assert found.copies_per_batch <= counted.copies_per_batch
    ahead = batch_hits(batches, items, slots, policy="genrec-lookahead")
    # Another implementation's figure of one batch of look-ahead, to a point.
    assert ahead.unique_hit_rate > look_ahead - 0.01
    whole = batch_hits(batches, items, max(map(len, batches)), policy="genrec-lookahead")
    assert whole.unique_hit_rate > 0.95


def retail_visits() -> Events:
    table = pl.read_parquet(SHARED / "online-retail-ii" / "events.parquet").sort("ts")
    return np.unique(table["user"].to_numpy(), return_inverse=True)[1], table["ts"].to_numpy()


def kuairand_visits() -> Events:
    table = pl.read_csv(SHARED / "kuairand-subset" / "interactions.tsv", separator="\t")
    table = table.sort("time_ms")
    users = np.unique(table["user_id"].to_numpy(), return_inverse=True)[1]
    return users, table["time_ms"].to_numpy() // 1000


# Points of page hits over LRU in a pool for a tenth of the pages: visits at every moment with
# events, and after half an hour without.
@pytest.mark.parametrize(
    ("folder", "load", "gains"),
    [
        ("online-retail-ii", retail_visits, (0.08, 0.08)),
        ("kuairand-subset", kuairand_visits, (0.0, 0.08)),
    ],
)
def test_pages_of_users_who_come_back_stay(
    folder: str, load: Callable[[], Events], gains: tuple[float, float]
) -> None:
    if not (SHARED / folder).is_dir():
        pytest.skip(f"{folder} is not on this machine")
    users, times = load()
    for gap_s, gain in zip((0, 1800), gains, strict=True):
        visits = visits_of(users, times, HistoryRule(gap_s=gap_s))
        pool = round(0.1 * visits.most)
        ours, lru, best = (
            page_hits(visits, pool, policy=policy) for policy in ("return", "lru", "optimum")
        )
        assert lru + gain <= ours <= best
