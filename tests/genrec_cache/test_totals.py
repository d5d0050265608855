"""Statistics of several caches as of one."""

from __future__ import annotations

import pytest
import torch

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.totals import total


def test_counts_are_summed_and_rates_are_over_all() -> None:
    tables = [CachedTable(torch.rand(20, 4), 5) for _ in range(2)]
    for _ in range(4):
        tables[0].lookup(torch.arange(5))
    tables[1].lookup(torch.arange(10))
    one, two = (table.statistics() for table in tables)
    both = total([one, two])
    assert set(both) == set(one)
    assert both["accesses"] == 30
    assert both["hit_rate"] == both["hits"] / 30 == 15 / 30
    assert both["capacity"] == 10
    assert both["rows"] == 20
    assert both["slot_bytes"] == 2 * 5 * 4 * 4
    assert both["host_bytes"] == 2 * 20 * 4 * 4
    weighted = 20 * float(one["hot_set_overlap"]) + 10 * float(two["hot_set_overlap"])
    assert both["hot_set_overlap"] == pytest.approx(weighted / 30)
    assert total([one]) == one


def test_what_ails_one_is_said_of_all() -> None:
    well, ill = CachedTable(torch.rand(9, 2), 3), CachedTable(torch.rand(9, 2), 3)
    ill.warm(torch.arange(9).numpy())
    parts = [well.statistics(), ill.statistics() | {"problem": "2 copies into slots failed"}]
    both = total(parts)
    assert both["problem"] == "1: 2 copies into slots failed"
    assert both["start"] == "mixed"
