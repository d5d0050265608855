"""A large matrix of a safetensors file is read as it is, and never twice in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from genrec_cache import stored_matrix
from genrec_cache.stored_matrix import StoredMatrix


def saved(path: Path, rows: torch.Tensor) -> StoredMatrix:
    # The first tensor's size puts the matrix at an odd place.
    safetensors.torch.save_file({"a": torch.zeros(3), "rows": rows}, path)
    return StoredMatrix.find(path, "rows")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_rows_are_those_of_the_file(tmp_path, monkeypatch, dtype) -> None:
    rows = torch.randn(37, 5).to(dtype)
    found = saved(tmp_path / "weights", rows)
    monkeypatch.setattr(stored_matrix, "PIECE_BYTES", 7 * 5 * dtype.itemsize + 1)
    assert (found.num_rows, found.width, found.dtype) == (37, 5, dtype)
    assert found.num_bytes(torch.bfloat16) == 370
    assert torch.equal(found.mapped(), rows)
    for wanted in (dtype, torch.float32, torch.bfloat16):
        assert torch.equal(found.in_memory(wanted), rows.to(wanted))
    assert [(first, len(piece)) for first, piece in found.pieces()] == [
        (0, 7), (7, 7), (14, 7), (21, 7), (28, 7), (35, 2),
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"\[37, 6\], not \[37, 5\]"):
        found.copy_to(torch.zeros(37, 6))


def test_no_rows_are_a_table_too(tmp_path) -> None:
    found = saved(tmp_path / "weights", torch.zeros(0, 5))
    assert found.mapped().shape == found.in_memory(torch.float32).shape == (0, 5)


def test_a_mapped_table_outlives_its_file(tmp_path) -> None:
    rows = torch.randn(9, 4)
    mapped = saved(tmp_path / "weights", rows).mapped()
    (tmp_path / "weights").unlink()
    assert torch.equal(mapped, rows)


def test_files_that_hold_no_such_matrix(tmp_path) -> None:
    path = tmp_path / "weights"
    saved(path, torch.zeros(4, 4))
    for name, text in (("b", "has no b"), ("a", r"a is F32 \[3\], no matrix")):
        with pytest.raises(ValueError, match=text):
            StoredMatrix.find(path, name)
    whole = path.read_bytes()
    for broken in (b"", b"12345678", whole[:20], (2**60).to_bytes(8, "little") + b"{}"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="no safetensors file"):
            StoredMatrix.find(path, "rows")
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="ends before rows does"):
        StoredMatrix.find(path, "rows")


def test_a_file_that_shrinks_is_an_error(tmp_path) -> None:
    path = tmp_path / "weights"
    found = saved(path, torch.zeros(40, 40))
    path.write_bytes(path.read_bytes()[:-100])
    for read in (found.in_memory, lambda dtype: found.copy_to(torch.zeros(40, 40, dtype=dtype))):
        with pytest.raises(OSError, match="ended while it was read"):
            read(torch.float32)


MEASURE = """
import sys
from pathlib import Path
import torch
from genrec_cache.stored_matrix import StoredMatrix

def mib(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) >> 10 for line in status if line.startswith(name))

table = StoredMatrix.find(Path(sys.argv[1]), "rows")
before = mib("VmHWM")
if sys.argv[2] == "mapped":
    rows = table.mapped()
    rows[::100_000].sum()
else:
    rows = table.in_memory(getattr(torch, sys.argv[2]))
print(mib("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's figures")
def test_memory_is_one_table_and_a_piece(tmp_path) -> None:
    path, num_rows, width = tmp_path / "weights", 1_500_000, 64
    size = num_rows * width * 4
    header = json.dumps(
        {"rows": {"dtype": "F32", "shape": [num_rows, width], "data_offsets": [0, size]}}
    ).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        piece = np.random.default_rng(0).random(size // 64, np.float32)
        for _ in range(16):
            file.write(piece.tobytes())
    table = size >> 20  # 366 MiB
    for how, most in (
        ("float32", table + 16),
        ("bfloat16", table // 2 + (stored_matrix.PIECE_BYTES >> 20) + 16),
        ("mapped", 32),
    ):
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), how], check=True, capture_output=True
        )
        assert int(done.stdout) <= most, how
