"""What a cache learnt is kept without being asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.keeper import Keeper


class Watched(CachedTable):
    """Says when it was saved."""

    def __init__(self) -> None:
        super().__init__(torch.arange(20.0).view(10, 2), 3)
        self.saved = threading.Event()

    def save(self, path: Path) -> None:
        """As the base class."""
        super().save(path)
        self.saved.set()


def test_it_saves_now_and_then(tmp_path: Path) -> None:
    table = Watched()
    table.lookup(torch.tensor([7, 8]))
    keeper = Keeper(table, tmp_path / "a", every_s=0.01)
    # Nothing was looked up since it was made.
    assert not table.saved.wait(0.05)
    table.lookup(torch.tensor([7, 8]))
    assert table.saved.wait(10)
    keeper.close()


def test_it_saves_at_the_end(tmp_path: Path) -> None:
    table = Watched()
    keeper = Keeper(table, tmp_path / "deep" / "a", every_s=3600)
    table.lookup(torch.tensor([4, 9]))
    keeper.close()
    again = CachedTable(torch.arange(20.0).view(10, 2), 3)
    again.restore(tmp_path / "deep" / "a")
    assert again.residents.tolist() == [4, 9]
    assert again.statistics()["start"] == "snapshot"


def test_a_file_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    table = Watched()
    keeper = Keeper(table, tmp_path / "file" / "a", every_s=3600)
    table.lookup(torch.tensor([4]))
    keeper.close()
    assert "what the hot cache learnt is not kept" in caplog.text
    assert np.array_equal(table.lookup(torch.tensor([4])), torch.tensor([[8.0, 9.0]]))
