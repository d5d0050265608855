"""Slots, with copies that take their time: as on a GPU, but made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_cache import fast_rows as module
from genrec_cache.embedding_cache import CachedTable
from genrec_cache.fast_rows import FastRows
from genrec_cache.host_rows import HostRows

CPU = torch.device("cpu")
NONE = np.zeros(0, np.int64)


class Later:
    """A fence that a test lets pass."""

    def __init__(self) -> None:
        self.passed = False

    def wait(self) -> None:
        self.passed = True


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> FastRows:
    """Rows 0 to 9 of value 0 to 9, whose copies arrive when `done` of each has passed."""
    rows = FastRows(HostRows(torch.arange(10.0)[:, None].clone()), 3, CPU)
    copy = FastRows._copy

    def begin(self: FastRows, admit: np.ndarray, slots: np.ndarray) -> Later:
        copy(self, admit, slots)
        return Later()

    monkeypatch.setattr(FastRows, "_copy", begin)
    return rows


def read_from_slots(rows: FastRows) -> dict[int, int]:
    """Ids and slots that a gather would use."""
    slots = rows._slot_of.tolist()
    return {item: slot for item, slot in enumerate(slots) if slot >= 0}


def test_rows_under_way_are_read_from_the_host(slow: FastRows) -> None:
    slow.replace(NONE, ids(4, 5), ids(0, 1))
    assert slow.gather(torch.arange(10)).flatten().tolist() == list(range(10))
    assert (read_from_slots(slow), slow.copies_under_way) == ({}, 1)
    slow._copies[0].done.passed = True
    slow.gather(torch.arange(1))
    assert (read_from_slots(slow), slow.copies_under_way) == ({4: 0, 5: 1}, 0)


def test_a_slot_that_is_given_on_before_its_row_arrived_is_not_found(slow: FastRows) -> None:
    slow.replace(NONE, ids(4, 5), ids(0, 1))
    slow.replace(ids(4), ids(7), ids(0))
    slow._copies[0].done.passed = True
    slow.gather(torch.arange(1))
    assert read_from_slots(slow) == {5: 1}
    slow.finish_copies()
    assert read_from_slots(slow) == {5: 1, 7: 0}
    assert slow.gather(torch.arange(10)).flatten().tolist() == list(range(10))


def test_an_evicted_row_is_not_found_while_its_slot_is_filled(slow: FastRows) -> None:
    slow.replace(NONE, ids(4), ids(0))
    slow.finish_copies()
    slow.replace(ids(4), ids(6), ids(0))
    assert read_from_slots(slow) == {}
    assert slow.gather(ids_of(4, 6)).flatten().tolist() == [4, 6]
    assert not slow.idle
    slow.wait()
    assert slow.idle


def ids_of(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_a_copy_that_fails_leaves_the_rows_on_the_host(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = FastRows(HostRows(torch.arange(10.0)[:, None].clone()), 3, CPU)
    rows.replace(NONE, ids(1, 2), ids(0, 1))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the link is down")

    monkeypatch.setattr(module, "copy_rows", fail)
    rows.replace(ids(2), ids(3), ids(1))
    assert rows.copy_failures == 1
    assert "1 rows stay on the host: their copy failed: the link is down" in caplog.text
    assert read_from_slots(rows) == {1: 0}
    assert rows.gather(torch.arange(10)).flatten().tolist() == list(range(10))


def test_an_id_out_of_range_is_seen_once() -> None:
    rows = FastRows(HostRows(torch.zeros(4, 2)), 1, CPU)
    rows.gather(ids_of(1, 9))
    assert rows.saw_outside
    assert not rows.saw_outside


def test_the_thread_that_decides_enters_rows_too(
    slow: FastRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not slow.under_way
    table = CachedTable(torch.arange(10.0)[:, None].clone(), 3, background=True)
    monkeypatch.setattr(table, "_rows", slow)
    table.lookup(torch.tensor([4, 5]))
    assert table._background is not None
    table._background.flush()
    # No lookup has to, and none did.
    assert set(read_from_slots(slow)) == {4, 5}
    assert slow.copies_under_way == 0
    table.close()
