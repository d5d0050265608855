"""Sparse ids: every row returned is the source's row of the version that is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genrec_cache.hashed_cache import HashedTable
from genrec_cache.hashed_slots import WAYS, HashedSlots
from genrec_cache.hot_set import NO_SLOT
from genrec_cache.row_sources import RowsUnavailable, SparseSource

# Few enough that they come again, and from all over the 64 bits.
IDS = [0, 1, -1, 2**63 - 1, -(2**63), *(k * 7_919_000_000_000_003 % 2**62 for k in range(1, 60))]


class Rows(SparseSource):
    """A row of an id is worked out from the id and the version; one id is missing."""

    width, dtype = 2, torch.float64
    MISSING = 404

    def __init__(self, version: int) -> None:
        self.version = version

    def read(self, ids: np.ndarray) -> torch.Tensor:
        if self.MISSING in ids:
            raise RowsUnavailable(f"row {self.MISSING} is missing")
        values = torch.from_numpy(ids.astype(np.float64))
        return torch.stack([values, torch.full_like(values, float(self.version))], dim=1)


class HashedAgainstRule(RuleBasedStateMachine):
    @initialize(capacity=st.sampled_from([0, 1, 16, 40]))
    def start(self, capacity: int) -> None:
        self.version = 0
        self.cache = HashedTable(Rows(0), capacity)

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=80))
    def lookup(self, ids: list[int]) -> None:
        rows, version = self.cache.lookup_versioned(torch.tensor(ids, dtype=torch.int64))
        assert version == self.version
        assert torch.equal(rows, Rows(self.version).read(np.array(ids, np.int64)))

    @rule()
    def swap(self) -> None:
        self.version += 1
        self.cache.swap(Rows(self.version), version=self.version)

    @rule()
    def missing(self) -> None:
        before = self.cache.stats
        with pytest.raises(RowsUnavailable, match="row 404"):
            self.cache.lookup(torch.tensor([404, 1]))
        assert self.cache.stats == before

    @invariant()
    def each_resident_is_found_once_where_it_is(self) -> None:
        if not hasattr(self, "cache"):
            return
        ids, slots = self.cache._slots.residents
        assert len(set(ids.tolist())) == len(ids) == len(set(slots.tolist()))
        assert np.array_equal(self.cache._slots.find(ids), slots)
        stored = self.cache._fast[torch.from_numpy(slots)]
        assert torch.equal(stored, Rows(self.version).read(ids))


TestHashedAgainstRule = HashedAgainstRule.TestCase
TestHashedAgainstRule.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_frequent_ids_stay_through_a_scan() -> None:
    rng = np.random.default_rng(0)
    frequent = rng.integers(-(2**62), 2**62, 100)
    slots = HashedSlots(256)
    for batch in range(60):
        slots.after_batch(np.unique(frequent))
        slots.after_batch(np.arange(batch * 1000, batch * 1000 + 500))
    assert (slots.find(frequent) != NO_SLOT).mean() > 0.95


def test_old_fame_fades() -> None:
    slots = HashedSlots(WAYS)
    for _ in range(30):
        slots.after_batch(np.arange(16))
    for _ in range(150):
        slots.after_batch(np.arange(100, 116))
    assert (slots.find(np.arange(100, 116)) != NO_SLOT).all()


def test_a_batch_never_takes_a_slot_from_itself() -> None:
    slots = HashedSlots(WAYS)
    admitted, into, evicted = slots.after_batch(np.arange(100))
    assert len(admitted) == len(set(into.tolist())) == 16
    assert evicted == 0
    for _ in range(3):
        assert len(slots.after_batch(np.arange(100))[0]) == 0


def test_slots_are_whole_sets() -> None:
    assert (HashedSlots(0).capacity, HashedSlots(1).capacity, HashedSlots(17).capacity) == (
        *(0, 16),
        32,
    )
    with pytest.raises(ValueError, match="make no cache"):
        HashedSlots(-1)


def test_counts_and_shapes() -> None:
    cache = HashedTable(Rows(0), 32)
    for _ in range(2):
        assert cache.lookup(torch.tensor([[7, 7], [-9, 7]])).shape == (2, 2, 2)
    stats = cache.stats
    assert (stats.lookups, stats.accesses, stats.hits) == (2, 8, 4)
    assert (stats.unique, stats.unique_hits, stats.copies, stats.evictions) == (4, 2, 2, 0)
    with pytest.raises(ValueError, match="another version"):
        cache.swap(Rows(1), version=0)
