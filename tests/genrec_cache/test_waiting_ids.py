"""Small lookups are counted together, and none is lost or counted twice."""

from __future__ import annotations

import threading

import torch

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.waiting_ids import WaitingIds


def test_a_batch_is_handed_over_when_there_are_enough() -> None:
    waiting = WaitingIds(5)
    assert waiting.take() is None
    assert waiting.add(torch.tensor([1, 2, 3])) is None
    assert waiting.add(torch.zeros(0, dtype=torch.int64)) is None
    batch = waiting.add(torch.tensor([4, 5]))
    assert batch is not None
    assert (batch.wait().tolist(), batch.lookups) == ([1, 2, 3, 4, 5], 3)
    assert waiting.take() is None
    assert waiting.add(torch.tensor([6])) is None
    rest = waiting.take()
    assert rest is not None
    assert (rest.wait().tolist(), rest.lookups) == ([6], 1)


def test_ids_are_copied_and_large_lookups_fit() -> None:
    waiting = WaitingIds(100)
    ids = torch.arange(99)
    assert waiting.add(ids) is None
    ids.zero_()
    batch = waiting.add(torch.arange(1000))
    assert batch is not None
    assert batch.wait().tolist() == [*range(99), *range(1000)]


def test_every_lookup_is_a_batch_where_none_has_to_wait() -> None:
    waiting = WaitingIds(0)
    for ids in (torch.arange(3), torch.zeros(0, dtype=torch.int64)):
        batch = waiting.add(ids)
        assert batch is not None
        assert batch.wait().tolist() == ids.tolist()


def test_lookups_with_and_without_gradients_share_a_batch() -> None:
    waiting = WaitingIds(4)
    with torch.inference_mode():
        assert waiting.add(torch.tensor([1])) is None
    assert waiting.add(torch.tensor([2])) is None
    with torch.inference_mode():
        batch = waiting.add(torch.tensor([3, 4]))
    assert batch is not None
    assert batch.wait().tolist() == [1, 2, 3, 4]


def test_a_cache_that_waits_counts_all_the_same() -> None:
    rows = torch.randn(200, 3)
    cache = CachedTable(rows, 20, batch_ids=64)
    random = torch.Generator().manual_seed(0)
    for lookup in range(50):
        ids = (torch.rand(10, generator=random) ** 3 * 200).long()
        assert torch.equal(cache.lookup(ids), rows[ids])
        assert cache.stats.lookups == (lookup + 1) // 7 * 7
    found = cache.statistics()
    assert (found["lookups"], found["accesses"]) == (50, 500)
    assert float(found["hits"]) > 0
    cache.close()


def test_threads_lose_nothing() -> None:
    cache = CachedTable(torch.randn(50, 2), 5, batch_ids=100, background=True)

    def ask() -> None:
        for item in range(200):
            cache.lookup(torch.tensor([item % 50]))
            cache.flush()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = cache.statistics()
    cache.flush()
    assert cache.stats.lookups + int(found["batches_not_counted"]) >= 600
    assert cache.stats.accesses <= 600
    cache.close()
