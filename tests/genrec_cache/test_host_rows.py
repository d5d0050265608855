"""The table on the host: stored, mapped, pinned or not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from genrec_cache import host_memory
from genrec_cache.host_memory import PinFailed, allocate
from genrec_cache.host_rows import HostRows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_allocated_rows_are_zero_and_can_be_written(dtype: torch.dtype) -> None:
    rows = allocate(1000, 7, dtype)
    assert (rows.shape, rows.dtype) == ((1000, 7), dtype)
    assert not bool(rows.any())
    rows[999] = 3
    assert float(rows.sum()) == 21
    assert allocate(0, 7, dtype).shape == (0, 7)


def test_a_file_is_a_table(tmp_path: Path) -> None:
    rows = torch.randn(9, 4).to(torch.bfloat16)
    path = tmp_path / "rows"
    path.write_bytes(rows.view(torch.uint8).numpy().tobytes())
    host = HostRows.mapped(path, width=4, dtype=torch.bfloat16)
    assert torch.equal(host.stored.values, rows)
    with pytest.raises(ValueError, match="no rows of 10"):
        HostRows.mapped(path, width=5, dtype=torch.bfloat16)


def test_what_is_no_table_is_refused() -> None:
    for values, scales, text in (
        (torch.zeros(4), None, r"\(4,\)"),
        (torch.zeros(4, 2, device="meta"), None, "on the host"),
        (torch.zeros(4, 2), torch.zeros(4), "no others"),
        (torch.zeros(4, 2, dtype=torch.int8), None, "no others"),
        (torch.zeros(4, 2, dtype=torch.int8), torch.zeros(3), "as many scales"),
    ):
        with pytest.raises(ValueError, match=text):
            HostRows(values, scales)


def test_rows_that_cannot_be_pinned_say_so_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: torch.Tensor) -> None:
        raise PinFailed("pinning stopped after 0.0 of 0.1 GB")

    monkeypatch.setattr("genrec_cache.host_rows.pin", refuse)
    host = HostRows(torch.zeros(4, 2))
    assert not host.pin()
    assert not host.pin()
    assert host.problem == "pinning stopped after 0.0 of 0.1 GB"
    assert caplog.text.count("gathered by the CPU, not read by the GPU") == 1


def test_a_digest_tells_tables_apart() -> None:
    rows = torch.randn(5000, 3)
    other = rows.clone()
    other[0, 0] += 1
    same = HostRows(rows.clone()).digest()
    assert HostRows(rows).digest() == same
    for different in (HostRows(other), HostRows(rows[:-1]), HostRows.quantized(rows)):
        assert different.digest() != same


class Runtime:
    """CUDA's registration of memory, which refuses the third piece."""

    def __init__(self) -> None:
        self.registered: list[int] = []

    def cudaHostRegister(self, start: int, size: int, flags: int) -> int:  # noqa: N802
        if len(self.registered) == 2:
            return 2
        self.registered.append(start)
        return 0

    def cudaHostUnregister(self, start: int) -> int:  # noqa: N802
        self.registered.remove(start)
        return 0


def test_what_was_pinned_before_a_failure_is_unpinned(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(host_memory, "PIECE", 4096)
    unpin = host_memory.pin(torch.zeros(2048))
    assert len(runtime.registered) == 2
    unpin()
    assert not runtime.registered
    with pytest.raises(PinFailed, match="CUDA error 2"):
        host_memory.pin(torch.zeros(4000))
    assert not runtime.registered
    with pytest.raises(PinFailed, match="contiguous"):
        host_memory.pin(torch.zeros(40, 40).T[:20])


def test_nothing_is_pinned_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PinFailed, match="no GPU"):
        host_memory.pin(torch.zeros(4))
