"""Device, host, and disk or Redis: every row is the source's, of one version."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from genrec_cache.row_sources import FileRows, RedisRows, RowSource, RowsUnavailable
from genrec_cache.tiers import TieredTable


class Memory(RowSource):
    """A source that counts what is read of it, and can be switched off."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows = rows
        (self.num_rows, self.width), self.dtype = rows.shape, rows.dtype
        self.asked: list[int] = []
        self.broken = False

    def read(self, ids: np.ndarray) -> torch.Tensor:
        if self.broken:
            raise RowsUnavailable("the disk is gone")
        self.asked += ids.tolist()
        return self.rows[torch.from_numpy(ids)]


def table(rows: int, version: int) -> torch.Tensor:
    return (torch.arange(rows * 2) + 1000.0 * version).reshape(rows, 2)


class TiersAgainstDictionary(RuleBasedStateMachine):
    @initialize(rows=st.integers(1, 12), device=st.integers(0, 5), host=st.integers(0, 14))
    def start(self, rows: int, device: int, host: int) -> None:
        self.version = 0
        self.truth = table(rows, 0)
        self.tiers = TieredTable(Memory(self.truth), device_rows=device, host_rows=host)

    @rule(data=st.data())
    def lookup(self, data: st.DataObject) -> None:
        ids = torch.tensor(
            data.draw(st.lists(st.integers(0, len(self.truth) - 1), max_size=15)),
            dtype=torch.int64,
        )
        rows, version = self.tiers.lookup_versioned(ids)
        assert version == self.version
        assert torch.equal(rows, self.truth[ids])

    @rule(more=st.integers(0, 3))
    def swap(self, more: int) -> None:
        self.version += 1
        self.truth = table(len(self.truth) + more, self.version)
        self.tiers.swap(Memory(self.truth), version=self.version)

    @rule()
    def source_fails(self) -> None:
        source = self.tiers._source
        assert isinstance(source, Memory)
        resident = {i for tier in self.tiers._tiers.values() for i in tier.slots.residents.tolist()}
        missing = set(range(len(self.truth))) - resident
        before = self.tiers.stats
        source.broken = True
        if missing:
            with pytest.raises(RowsUnavailable, match="disk is gone"):
                self.tiers.lookup(torch.tensor([min(missing)]))
            assert self.tiers.stats == before
        if resident:
            ids = torch.tensor(sorted(resident))
            assert torch.equal(self.tiers.lookup(ids), self.truth[ids])
        source.broken = False

    @invariant()
    def slots_and_policies_agree(self) -> None:
        if not hasattr(self, "tiers"):
            return
        for tier in self.tiers._tiers.values():
            residents = tier.slots.residents
            assert np.array_equal(np.flatnonzero(tier.policy.resident), residents)
            rows = tier.rows[torch.from_numpy(tier.slots.slot_of[residents]).long()]
            assert torch.equal(rows, self.truth[torch.from_numpy(residents)])


TestTiersAgainstDictionary = TiersAgainstDictionary.TestCase
TestTiersAgainstDictionary.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None
)


def test_a_row_is_read_from_the_source_once_while_it_stays_warm() -> None:
    source = Memory(table(10, 0))
    tiers = TieredTable(source, device_rows=2, host_rows=6)
    for _ in range(5):
        tiers.lookup(torch.tensor([0, 1, 2, 3, 3]))
    assert source.asked == [0, 1, 2, 3]
    found = tiers.stats
    assert found["source"].rows == 4
    assert found["device"].rows == 8
    assert found["host"].rows == 8
    assert sum(tier.accesses for tier in found.values()) == 25
    shown = tiers.statistics()
    assert sum(tier["hit_rate"] for tier in shown.values()) == pytest.approx(1.0)
    assert shown["host"]["slowest_ms"] >= shown["host"]["mean_ms"] > 0
    assert tiers.lookup(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 2)


def test_ids_and_tables_that_do_not_fit() -> None:
    tiers = TieredTable(Memory(table(10, 0)), device_rows=2, host_rows=6)
    with pytest.raises(IndexError, match="row 10 "):
        tiers.lookup(torch.tensor([10]))
    for source, version in (
        (Memory(table(9, 1)), 1),
        (Memory(table(10, 1)), 0),
        (Memory(table(10, 1).half()), 1),
    ):
        with pytest.raises(ValueError, match=r"needed|needs"):
            tiers.swap(source, version=version)
    broken = Memory(table(10, 1))
    broken.broken = True
    tiers.lookup(torch.tensor([3]))
    with pytest.raises(RowsUnavailable):
        tiers.swap(broken, version=1)
    assert torch.equal(tiers.lookup(torch.tensor([3, 4])), table(10, 0)[[3, 4]])


def test_a_swap_under_load_mixes_no_versions() -> None:
    tables = [Memory(torch.full((64, 4), float(version))) for version in range(12)]
    tiers = TieredTable(tables[0], device_rows=8, host_rows=24)
    wrong: list[object] = []
    served = [0, 0]
    done = threading.Event()

    def read(reader: int) -> None:
        rng = torch.Generator().manual_seed(reader)
        while not done.is_set():
            rows, version = tiers.lookup_versioned(torch.randint(0, 64, (30,), generator=rng))
            if not bool((rows == version).all()):
                wrong.append(version)
            served[reader] += 1

    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(2)]
    for reader in readers:
        reader.start()
    for version in range(1, 12):
        before = min(served)
        while min(served) < before + 2 and all(reader.is_alive() for reader in readers):
            done.wait(0.001)
        tiers.swap(tables[version], version=version)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert min(served) >= 22


def test_rows_of_a_file(tmp_path: Path) -> None:
    rows = torch.randn(50, 3).to(torch.bfloat16)
    path = tmp_path / "rows"
    path.write_bytes(rows.view(torch.uint8).numpy().tobytes())
    tiers = TieredTable(FileRows(path, width=3, dtype=torch.bfloat16), device_rows=5, host_rows=10)
    for seed in range(5):
        ids = torch.randint(0, 50, (30,), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(tiers.lookup(ids), rows[ids])


class Client:
    """Values by key, as a client of Redis gives them."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self.values = values
        self.longest = 0

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        self.longest = max(self.longest, len(keys))
        return [self.values.get(key) for key in keys]


def test_rows_of_a_key_value_store() -> None:
    rows = torch.randn(3000, 3)
    client = Client({f"items:7:{i}": row.numpy().tobytes() for i, row in enumerate(rows)})
    source = RedisRows(client, "items:7", num_rows=3000, width=3, dtype=torch.float32)
    tiers = TieredTable(source, device_rows=5, host_rows=10)
    assert torch.equal(tiers.lookup(torch.arange(3000)), rows)
    assert client.longest == 1024
    assert source.read(np.zeros(0, np.int64)).shape == (0, 3)
    del client.values["items:7:2900"]
    client.values["items:7:2901"] = b"short"
    for item, text in ((2900, "is missing"), (2901, "has 5 bytes, not 12")):
        with pytest.raises(RowsUnavailable, match=f"row {item} of items:7 {text}"):
            source.read(np.array([item]))
    client.mget = lambda keys: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(RowsUnavailable, match="rows of items:7 could not be read: integer"):
        source.read(np.array([1]))
