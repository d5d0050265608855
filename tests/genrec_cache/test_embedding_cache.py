"""Every row that the cache returns is the table's row of the version that it names."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.host_rows import HostRows
from genrec_cache.hot_set import NO_SLOT, HotSet
from genrec_cache.policy import HotSetPolicy, Plan, PolicySettings


def table(rows: int, version: int, width: int = 3) -> torch.Tensor:
    return (torch.arange(rows * width) + 1000.0 * version).reshape(rows, width)


class CacheAgainstDictionary(RuleBasedStateMachine):
    @initialize(
        rows=st.integers(1, 12),
        capacity=st.integers(0, 15),
        max_copies=st.sampled_from([None, 0, 1]),
        warm=st.booleans(),
        background=st.booleans(),
    )
    def start(
        self, rows: int, capacity: int, max_copies: int | None, warm: bool, background: bool
    ) -> None:
        self.capacity, self.version = capacity, 0
        self.truth = dict(enumerate(table(rows, 0)))
        self.cache = CachedTable(
            table(rows, 0),
            capacity,
            settings=PolicySettings(max_copies=max_copies),
            background=background,
        )
        if warm:
            self.cache.warm(np.arange(rows))

    @rule(data=st.data())
    def lookup(self, data: st.DataObject) -> None:
        number = st.integers(0, len(self.truth) - 1)
        ids = data.draw(st.lists(number, max_size=20))
        ahead = data.draw(st.none() | st.lists(number, max_size=20))
        rows, version = self.cache.lookup_versioned(
            torch.tensor(ids, dtype=torch.int64),
            ahead=None if ahead is None else torch.tensor(ahead, dtype=torch.int64),
        )
        assert version == self.version
        assert rows.shape == (len(ids), 3)
        for item, row in zip(ids, rows, strict=True):
            assert torch.equal(row, self.truth[item])

    @rule(data=st.data())
    def announce(self, data: st.DataObject) -> None:
        number = st.integers(0, len(self.truth) - 1)
        ids = data.draw(st.lists(number, max_size=20))
        self.cache.announce(torch.tensor(ids, dtype=torch.int64))

    @rule(more=st.integers(0, 3))
    def swap(self, more: int) -> None:
        self.version += 1
        new = table(len(self.truth) + more, self.version)
        self.cache.swap(new, version=self.version)
        self.truth = dict(enumerate(new))

    @rule(item=st.integers(1, 5))
    def out_of_range(self, item: int) -> None:
        self.cache.flush()
        before = self.cache.stats
        wrong = len(self.truth) - 1 + item
        with pytest.raises(IndexError, match=f"row {wrong} .* {len(self.truth)} rows"):
            self.cache.lookup(torch.tensor([0, wrong]))
        assert self.cache.stats == before

    @invariant()
    def slots_and_policy_agree(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.cache.flush()
        slots = self.cache._set
        assert len(self.cache.residents) == len(slots) <= self.capacity
        assert (slots.id_of[slots.slot_of[slots.residents]] == slots.residents).all()
        assert np.array_equal(np.flatnonzero(self.cache._policy.resident), slots.residents)
        assert np.array_equal(self.cache._rows._slot_of.numpy(), slots.slot_of)

    def teardown(self) -> None:
        if hasattr(self, "cache"):
            self.cache.close()


TestCacheAgainstDictionary = CacheAgainstDictionary.TestCase
TestCacheAgainstDictionary.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None
)


def test_shape_of_the_ids_is_kept() -> None:
    cache = CachedTable(table(6, 0), 2)
    ids = torch.tensor([[1, 1, 5], [0, 5, 2]])
    assert torch.equal(cache.lookup(ids), table(6, 0)[ids])
    assert (cache.num_rows, cache.width, cache.version) == (6, 3, 0)


def test_all_the_same_is_one_unique_id_and_then_a_hit() -> None:
    cache = CachedTable(table(6, 0), 1)
    for _ in range(2):
        cache.lookup(torch.full((100,), 4))
    stats = cache.stats
    assert (stats.accesses, stats.hits, stats.unique, stats.unique_hits) == (200, 100, 2, 1)
    assert (stats.lookups, stats.copies, stats.evictions) == (2, 1, 0)


@pytest.mark.parametrize("capacity", [0, 3, 6, 100])
def test_all_different(capacity: int) -> None:
    cache = CachedTable(table(6, 0), capacity)
    for _ in range(3):
        assert torch.equal(cache.lookup(torch.arange(6)), table(6, 0))
    assert len(cache.residents) == min(capacity, 6)
    assert cache.stats.hits == 2 * min(capacity, 6)


def test_half_precision_rows_come_back_bit_for_bit() -> None:
    rows = torch.randn(8, 4).to(torch.bfloat16)
    cache = CachedTable(rows, 3)
    for _ in range(3):
        assert torch.equal(cache.lookup(torch.arange(8)), rows)


def test_int8_rows_come_back_scaled() -> None:
    rows = torch.randn(50, 6)
    rows[7] = 0.0
    host = HostRows.quantized(rows)
    cache = CachedTable(host, 10)
    for _ in range(3):
        found = cache.lookup(torch.arange(50))
        assert found.dtype == torch.float32
        step = rows.abs().amax(dim=1, keepdim=True) / 127
        assert bool(((found - rows).abs() <= step / 2 + 1e-6).all())
    assert torch.equal(found[7], rows[7])


def test_a_thread_decides_and_what_it_cannot_count_is_said() -> None:
    cache = CachedTable(table(6, 0), 2, background=True)
    gate = threading.Event()

    def hold() -> None:
        gate.wait(10)

    cache._later(hold)
    for _ in range(20):
        assert torch.equal(cache.lookup(torch.arange(6)), table(6, 0))
    gate.set()
    cache.flush()
    found = cache.statistics()
    assert found["lookups"] + found["batches_not_counted"] == 20
    assert found["batches_not_counted"] >= 15
    assert len(cache.residents) == 2
    cache.close()


def test_a_decision_that_fails_leaves_lookups_as_they_were(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = CachedTable(table(6, 0), 2, background=True)
    monkeypatch.setattr(HotSetPolicy, "after_batch", lambda *_, **__: 1 // 0)
    assert torch.equal(cache.lookup(torch.arange(6)), table(6, 0))
    cache.flush()
    assert torch.equal(cache.lookup(torch.arange(6)), table(6, 0))
    cache.close()
    assert "a decision of the hot cache failed" in caplog.text


def test_gathered_ids_out_of_range_are_nan_counted_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = CachedTable(table(6, 0), 2)
    rows = cache.gather(torch.tensor([1, 6, 2, -3]))
    assert torch.equal(rows[[0, 2]], table(6, 0)[[1, 2]])
    assert bool(rows[[1, 3]].isnan().all())
    assert cache.statistics()["out_of_range"] == 1
    assert "rows 6, -3 were asked for: the table has 6" in caplog.text


def test_announced_rows_are_hits() -> None:
    cache = CachedTable(table(6, 0), 2)
    cache.announce(torch.tensor([4, 1, 4]))
    cache.lookup(torch.tensor([1, 4]))
    assert cache.stats.unique_hits == 2
    with pytest.raises(IndexError, match="row 6 "):
        cache.announce(torch.tensor([6]))


def test_made_and_used_in_inference_mode() -> None:
    with torch.inference_mode():
        cache = CachedTable(table(6, 0), 2, background=True)
        for _ in range(4):
            assert torch.equal(cache.gather(torch.arange(6)), table(6, 0))
            cache.flush()
    found = cache.statistics()
    cache.close()
    assert (found["residents"], found["decisions_failed"], found["copy_failures"]) == (2, 0, 0)


def test_statistics_by_name() -> None:
    cache = CachedTable(table(6, 0), 2)
    for _ in range(4):
        cache.lookup(torch.tensor([1, 1, 2]))
    found = cache.statistics()
    assert found["hit_rate"] == found["unique_hit_rate"] == 0.75
    assert (found["hot_set_overlap"], found["residents"], found["capacity"]) == (1.0, 2, 2)
    assert (found["copies"], found["evictions"], found["host_path"]) == (2, 0, "cpu")


def test_negative_ids_are_named_too() -> None:
    with pytest.raises(IndexError, match="row -1 "):
        CachedTable(table(6, 0), 2).lookup(torch.tensor([-1]))


def test_hot_items_stay_hot_over_a_swap() -> None:
    cache = CachedTable(table(6, 0), 2)
    cache.lookup(torch.tensor([1, 2]))
    cache.swap(table(9, 1), version=1)
    assert cache.residents.tolist() == [1, 2]
    assert torch.equal(cache.lookup(torch.tensor([1, 2, 8])), table(9, 1)[[1, 2, 8]])
    assert cache.stats.unique_hits == 2


def test_a_swap_that_does_not_fit_changes_nothing() -> None:
    cache = CachedTable(table(6, 0), 2)
    for wrong, version in (
        (table(5, 1), 1),
        (table(6, 1), 0),
        (table(6, 1, width=4), 1),
        (table(6, 1).half(), 1),
    ):
        with pytest.raises(ValueError, match=r"needed|needs"):
            cache.swap(wrong, version=version)
    assert cache.version == 0
    assert torch.equal(cache.lookup(torch.arange(6)), table(6, 0))


def test_a_swap_under_load_mixes_no_versions() -> None:
    tables = [torch.full((64, 8), float(version)) for version in range(30)]
    cache = CachedTable(tables[0], 16)
    wrong: list[object] = []
    done = threading.Event()

    def read(seed: int) -> None:
        rng = torch.Generator().manual_seed(seed)
        while not done.is_set():
            rows, version = cache.lookup_versioned(torch.randint(0, 64, (40,), generator=rng))
            if not bool((rows == version).all()):
                wrong.append((version, rows))

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    for version in range(1, 30):
        lookups = cache.stats.lookups
        while cache.stats.lookups < lookups + 3:
            done.wait(0.001)
        cache.swap(tables[version], version=version)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_refuses_what_is_no_table() -> None:
    with pytest.raises(ValueError, match=r"\(4,\)"):
        CachedTable(torch.zeros(4), 2)
    with pytest.raises(ValueError, match="make no cache"):
        CachedTable(torch.zeros(4, 2), -1)


def test_slots_of_evicted_ids_are_used_again() -> None:
    slots = HotSet(10, 2)
    none = np.zeros(0, np.int64)
    slots.apply(Plan(evict=none, admit=np.array([3, 7])))
    old = slots.slot_of[3]
    assert slots.apply(Plan(evict=np.array([3]), admit=np.array([9]))).tolist() == [old]
    assert slots.slot_of[3] == NO_SLOT
    for plan in (
        Plan(evict=np.array([3]), admit=none),
        Plan(evict=none, admit=np.array([9])),
        Plan(evict=none, admit=np.array([1])),
    ):
        with pytest.raises(ValueError, match=r"plan|fit"):
            slots.apply(plan)
    assert slots.residents.tolist() == [7, 9]
