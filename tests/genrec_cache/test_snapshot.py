"""A cache that starts again goes on where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_cache import snapshot
from genrec_cache.embedding_cache import CachedTable
from genrec_cache.policy import HotSetPolicy
from genrec_cache.snapshot import SnapshotUnfit

ROWS = torch.randn(200, 3)


def batch(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(60, generator=g) ** 3 * 200).long()


def test_a_restored_cache_decides_as_the_one_that_was_saved(tmp_path: Path) -> None:
    old = CachedTable(ROWS, 20)
    for seed in range(30):
        old.lookup(batch(seed))
    old.save(tmp_path / "deep" / "hot")
    new = CachedTable(ROWS.clone(), 20)
    new.restore(tmp_path / "deep" / "hot")
    assert new.residents.tolist() == old.residents.tolist()
    for seed in range(30, 50):
        assert torch.equal(new.lookup(batch(seed)), ROWS[batch(seed)])
        old.lookup(batch(seed))
        assert new.residents.tolist() == old.residents.tolist()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["hot"]


def test_a_smaller_cache_takes_the_best(tmp_path: Path) -> None:
    old = CachedTable(ROWS, 20)
    for seed in range(30):
        old.lookup(torch.cat([batch(seed), torch.tensor([150, 151])]))
    old.save(tmp_path / "hot")
    new = CachedTable(ROWS, 3)
    new.restore(tmp_path / "hot")
    assert len(new.residents) == 3
    assert set(new.residents) <= set(old.residents)


def test_a_snapshot_of_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hot"
    CachedTable(ROWS, 20).save(path)
    with pytest.raises(SnapshotUnfit, match="another table"):
        CachedTable(ROWS + 1, 20).restore(path)
    for content in (b"", b"no zip", path.read_bytes()[:50]):
        path.write_bytes(content)
        with pytest.raises(SnapshotUnfit, match="is no snapshot"):
            CachedTable(ROWS, 20).restore(path)
    with pytest.raises(FileNotFoundError):
        CachedTable(ROWS, 20).restore(tmp_path / "none")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "hot"
    CachedTable(ROWS, 20).save(path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(snapshot.np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        CachedTable(ROWS, 20).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_is_restored_only_where_it_fits() -> None:
    policy = HotSetPolicy(10, 2)
    policy.after_batch(np.array([7, 9]))
    with pytest.raises(ValueError, match="before the first batch"):
        policy.restore(policy.state())
    with pytest.raises(ValueError, match="beyond the 9 here"):
        HotSetPolicy(9, 2).restore(policy.state())
    same = HotSetPolicy(10, 2)
    assert sorted(same.restore(policy.state()).admit.tolist()) == [7, 9]
