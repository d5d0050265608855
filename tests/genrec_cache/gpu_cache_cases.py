"""The hot cache on a GPU, or on the CPU with its kernels in Triton's interpreter.

Not collected by itself: `test_gpu_cache.py` runs it in a process of its own.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_cache import host_memory, row_stream
from genrec_cache.bench.miss_paths import MissBench, Staged
from genrec_cache.embedding_cache import CachedTable
from genrec_cache.hashed_cache import HashedTable
from genrec_cache.host_memory import PinFailed, allocate
from genrec_cache.host_rows import HostRows
from genrec_cache.row_sources import FileRows, SparseSource
from genrec_cache.row_stream import stream_rows
from genrec_cache.tiers import TieredTable

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
ROWS, WIDTH = (20_000, 64) if ON_GPU else (50, 5)


def table(version: int = 0, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    g = torch.Generator().manual_seed(version)
    return torch.randn(rows, WIDTH, generator=g).to(dtype)


def cached(host: torch.Tensor | HostRows, capacity: int, **more: object) -> CachedTable:
    return CachedTable(host, capacity, device=DEVICE, backend="triton", **more)  # type: ignore[arg-type]


def batch(seed: int, size: int = 4 * ROWS // 10) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(size, generator=g) ** 3 * ROWS).long()


@pytest.mark.parametrize("capacity", [0, ROWS // 10, ROWS, 2 * ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_are_the_tables_while_the_hot_set_moves(dtype: torch.dtype, capacity: int) -> None:
    rows = table(dtype=dtype)
    cache = cached(rows, capacity)
    for seed in range(20):
        ids = (batch(seed) + seed * ROWS // 40) % ROWS
        assert torch.equal(cache.lookup(ids).cpu(), rows[ids])
        assert torch.equal(cache.gather(ids.to(DEVICE)).cpu(), rows[ids])
    cache.flush()
    found = cache.statistics()
    assert capacity // 2 <= len(cache.residents) <= capacity or capacity > ROWS
    assert found["copy_failures"] == found["decisions_failed"] == 0
    if capacity:
        assert found["hits"] > 0
    cache.close()


def test_the_device_decides_as_the_plain_twin() -> None:
    rows = table()
    cache, twin = cached(rows, ROWS // 10, background=False), CachedTable(rows, ROWS // 10)
    for seed in range(15):
        ids, ahead = batch(seed), batch(seed + 1)
        found, _ = cache.lookup_versioned(ids, ahead=ahead)
        expected, _ = twin.lookup_versioned(ids, ahead=ahead)
        assert torch.equal(found.cpu(), expected)
        assert cache.residents.tolist() == twin.residents.tolist()
    assert cache.stats == twin.stats


@pytest.mark.parametrize("seed", range(3))
def test_batches_of_one_id_and_of_all(seed: int) -> None:
    rows = HostRows.quantized(table(seed))
    cache = cached(rows, 7)
    expected = rows.stored.values.float() * rows.stored.scales[:, None]  # type: ignore[index]
    for ids in (torch.zeros(0).long(), torch.full((999,), seed), torch.randperm(ROWS)):
        for _ in range(3):
            torch.testing.assert_close(cache.lookup(ids).cpu(), expected[ids], rtol=0, atol=0)
    cache.close()


def test_ids_out_of_range() -> None:
    rows = table()
    cache = cached(rows, 7)
    with pytest.raises(IndexError, match=f"row {ROWS}, -1 .* {ROWS} rows"):
        cache.lookup(torch.tensor([0, ROWS, -1]))
    found = cache.gather(torch.tensor([3, ROWS, -1], device=DEVICE)).cpu()
    assert torch.equal(found[0], rows[3])
    assert bool(found[1:].isnan().all())
    cache.flush()
    cache.gather(torch.tensor([3], device=DEVICE))
    assert cache.statistics()["out_of_range"] == 1
    cache.close()


def test_repeats_of_misses_are_merged_when_there_are_many() -> None:
    rows = table()
    cache = cached(rows, 0)
    ids = torch.arange(20).repeat(9)
    for _ in range(3):
        assert torch.equal(cache.lookup(ids).cpu(), rows[ids])
        cache.flush()
        assert cache._merge
    unique = torch.arange(40)
    assert torch.equal(cache.lookup(unique).cpu(), rows[unique])
    cache.flush()
    assert not cache._merge
    cache.close()


def test_a_swap_under_load_mixes_no_versions() -> None:
    number = 12
    tables = [torch.full((ROWS, WIDTH), float(version)) for version in range(number)]
    # Triton's interpreter is not made for threads: without a GPU this runs the plain twin.
    cache = CachedTable(tables[0], ROWS // 5, device=DEVICE, background=True)
    wrong: list[object] = []
    served = [0, 0]
    done = threading.Event()

    def read(reader: int) -> None:
        own = torch.cuda.Stream() if ON_GPU else None
        with torch.cuda.stream(own):
            while not done.is_set():
                found, version = cache.lookup_versioned(batch(served[reader], 300))
                if not bool((found == version).all()):
                    wrong.append(version)
                served[reader] += 1

    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(2)]
    for reader in readers:
        reader.start()
    for version in range(1, number):
        before = min(served)
        while min(served) < before + 2 and all(reader.is_alive() for reader in readers):
            done.wait(0.001)
        cache.swap(tables[version], version=version)
    done.set()
    for reader in readers:
        reader.join()
    assert not wrong
    assert min(served) >= number
    cache.close()


def test_what_cannot_be_pinned_is_gathered_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: torch.Tensor) -> None:
        raise PinFailed("refused")

    monkeypatch.setattr("genrec_cache.host_rows.pin", refuse)
    rows = table()
    cache = CachedTable(rows, 9, device=DEVICE)
    for seed in range(5):
        ids = batch(seed)
        assert torch.equal(cache.lookup(ids).cpu(), rows[ids])
    cache.flush()
    if ON_GPU:
        assert cache.statistics()["host_path"] == "gather"
        assert "gathered by the CPU: refused" in str(cache.statistics()["problem"])
    cache.close()


def test_a_mapped_file_is_a_table(tmp_path: Path) -> None:
    rows = table()
    path = tmp_path / "rows"
    path.write_bytes(rows.view(torch.uint8).numpy().tobytes())
    cache = cached(HostRows.mapped(path, width=WIDTH, dtype=torch.float32), 9)
    for seed in range(5):
        ids = batch(seed)
        assert torch.equal(cache.lookup(ids).cpu(), rows[ids])
    cache.close()


@pytest.mark.parametrize("int8", [False, True], ids=["floats", "int8"])
def test_all_rows_come_by_in_pieces(int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Memory is pinned in so small pieces that most copies have to be cut.
    monkeypatch.setattr(host_memory, "PIECE", 1 << 16)
    monkeypatch.setattr(row_stream, "PIECE", 1 << 16)
    values = allocate(ROWS, WIDTH, torch.float32).copy_(table())
    host = HostRows.quantized(values) if int8 else HostRows(values)
    if ON_GPU and not int8:  # those are not at the start of a page of memory
        assert host.pin(), host.problem
    for piece_rows in (ROWS // 7 + 1, ROWS, 2 * ROWS):
        found = torch.zeros(ROWS, WIDTH)
        size = piece_rows * host.stored.values[:1].nbytes
        for first, rows in stream_rows(host, torch.device(DEVICE), piece_bytes=size):
            assert rows.device.type == DEVICE
            # Still at work on one piece when the next is asked for.
            for _ in range(50 if ON_GPU else 1):
                rows = rows * 1.0
            found[first : first + len(rows)] = rows.cpu()
        expected = host.stored.values.float()
        if host.stored.scales is not None:
            expected = expected * host.stored.scales[:, None]
        assert torch.equal(found, expected)


def test_all_ways_to_read_missed_rows_read_the_same() -> None:
    bench = MissBench(401, None, DEVICE)
    for count in (1, 37, 300):
        assert bench.error(bench.draw(count)) == 0.0
    ids = bench.draw(50, num_rows=100)
    expected = bench.host.stored.values[:400].view(100, -1)[ids.cpu()]
    assert torch.equal(bench.wide(ids).cpu(), expected)
    bench.host.stored.values[7] += 1
    stale = bench.draw(10).fill_(7)
    staged = Staged(bench, [stale], 0.5)
    staged()
    bench.host.stored.values[7] += 1
    assert bench.error(stale) == 0.0
    assert not torch.equal(staged.out.cpu(), bench.direct(stale).cpu())


class ById(SparseSource):
    """Rows worked out from their ids."""

    width, dtype = 2, torch.float64

    def read(self, ids: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.stack([ids, -ids], axis=1).astype(np.float64))


def test_sparse_ids_and_tiers_on_the_device(tmp_path: Path) -> None:
    sparse = HashedTable(ById(), 64, device=DEVICE)
    rows = table()
    path = tmp_path / "rows"
    path.write_bytes(rows.view(torch.uint8).numpy().tobytes())
    source = FileRows(path, width=WIDTH, dtype=torch.float32)
    tiers = TieredTable(source, device_rows=ROWS // 10, host_rows=ROWS // 2, device=DEVICE)
    for seed in range(10):
        ids = batch(seed)
        found = sparse.lookup(ids * 10**12)
        assert found.device.type == tiers.lookup(ids).device.type == DEVICE
        assert torch.equal(found.cpu(), ById().read((ids * 10**12).numpy()))
        assert torch.equal(tiers.lookup(ids).cpu(), rows[ids])
    assert sparse.stats.hits > 0
    assert tiers.stats["device"].rows > 0
    tiers.swap(source, version=1)
    assert torch.equal(tiers.lookup(batch(1)).cpu(), rows[batch(1)])
