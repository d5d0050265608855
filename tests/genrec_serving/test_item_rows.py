"""Layers that take their item rows from a hot cache see what the whole table gives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from genrec_serving.vllm_plugin.item_rows import CachedItems, ItemCacheOptions

CPU = torch.device("cpu")


def test_rows_are_the_embeddings() -> None:
    whole = nn.Embedding(50, 6)
    cached = CachedItems(whole.weight, 5, CPU)
    for seed in range(10):
        items = torch.randint(0, 50, (40,), generator=torch.Generator().manual_seed(seed)) // 3
        with torch.inference_mode(), cached.pass_over(items):
            assert torch.equal(cached(items), whole(items))
            assert torch.equal(cached(items.view(8, 5)), whole(items.view(8, 5)))
    found = cached.statistics()
    # One pass is one lookup, however often its layers ask.
    assert (found["lookups"], found["accesses"], found["residents"]) == (10, 400, 5)
    assert found["hits"] > 0
    assert torch.equal(cached.weight, whole.weight)


def test_a_pass_that_fails_does_not_block_the_next() -> None:
    cached = CachedItems(torch.zeros(9, 2), 3, CPU)
    with pytest.raises(ZeroDivisionError), cached.pass_over(torch.tensor([1])):
        raise ZeroDivisionError
    with cached.pass_over(torch.tensor([1])):
        assert cached(torch.tensor([1])).shape == (1, 2)


def test_what_is_cached() -> None:
    table = torch.zeros(100, 4)
    options = ItemCacheOptions()
    assert options.wanted(table, 4 * 1599)
    assert not options.wanted(table, 4 * 1600)
    assert ItemCacheOptions(above=0.0).wanted(table, 10**12)
    for wrong in ({"slots": 0.0}, {"slots": 1.1}, {"above": -0.1}, {"above": 1.5}):
        with pytest.raises(ValueError, match="share"):
            ItemCacheOptions(**wrong)
