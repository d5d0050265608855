"""Requests that wait find their rows in the cache."""

from __future__ import annotations

import pytest
import torch

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.prefetch import Prefetch

ROWS = torch.randn(100, 3)


def ids(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_a_waiting_request_hits_however_popular_other_items_are() -> None:
    cache = CachedTable(ROWS, 4)
    for _ in range(30):
        cache.lookup(ids(0, 1, 2, 3))
    prefetch = Prefetch(cache)
    prefetch.queued("a", ids(50, 51, 51))
    prefetch.queued("b", ids(52))
    cache.lookup(ids(0, 1, 2, 3))
    before = cache.stats.unique_hits
    assert torch.equal(cache.lookup(ids(50, 51)), ROWS[[50, 51]])
    assert cache.stats.unique_hits == before + 2
    prefetch.taken(["a", "unknown"])
    assert prefetch.waiting == 1
    assert 52 in cache.residents


def test_no_more_is_announced_than_fits() -> None:
    cache = CachedTable(ROWS, 3)
    prefetch = Prefetch(cache)
    prefetch.queued(1, ids(10, 11))
    prefetch.queued(2, ids(20, 21, 22))
    assert cache.residents.tolist() == [10, 11, 20]
    prefetch.taken([1])
    assert cache.residents.tolist() == [20, 21, 22]
    prefetch.taken([2])
    assert prefetch.waiting == 0


def test_an_id_out_of_range_is_not_announced() -> None:
    prefetch = Prefetch(CachedTable(ROWS, 3))
    with pytest.raises(IndexError, match="row 100 "):
        prefetch.queued(1, ids(100))
    assert prefetch.waiting == 0
