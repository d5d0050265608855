"""A matrix in a safetensors file, for tables that are large: mapped, or read a piece at a time.

Letters in shapes: V rows, W width of a row, N rows of a piece.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from genrec_cache.host_memory import allocate

#: Read at once at most, where rows are converted or go on to a device.
PIECE_BYTES = 64 << 20

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# The format's own bound on its header, so that a broken file asks for no memory.
_LONGEST_HEADER = 100 << 20


@dataclass(frozen=True, kw_only=True)
class StoredMatrix:
    """Where a matrix lies. The file must not change while it is used; it may be replaced.

    Args:
        path: of the file.
        offset: of the first row, in bytes.
        num_rows, width: V and W.
        dtype: of the file.
    """

    path: Path
    offset: int
    num_rows: int
    width: int
    dtype: torch.dtype

    @classmethod
    def find(cls, path: Path, name: str) -> StoredMatrix:
        """A tensor of a safetensors file by its name.

        Raises:
            ValueError: the file is none, lacks the tensor, or has no matrix of floats there.
            OSError: it cannot be read.
        """
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(_LONGEST_HEADER, size):
                raise ValueError(f"{path} is no safetensors file")
            try:
                entry = json.loads(file.read(length)).get(name)
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{path} is no safetensors file ({error})") from error
        if entry is None:
            raise ValueError(f"{path} has no {name}")
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None or len(shape) != 2 or end - start != shape[0] * shape[1] * dtype.itemsize:
            raise ValueError(f"{path}: {name} is {entry['dtype']} {shape}, no matrix of floats")
        found = cls(
            path=path, offset=8 + length + start, num_rows=shape[0], width=shape[1], dtype=dtype
        )
        if found.offset + found.num_bytes(dtype) > size:
            raise ValueError(f"{path} ends before {name} does")
        return found

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Of all rows in a data type."""
        return self.num_rows * self.width * dtype.itemsize

    def mapped(self) -> Tensor:
        """The rows [V, W] as the file has them: each is read from it when it is first used.

        Raises:
            OSError: the file cannot be mapped.
        """
        if not self.num_rows * self.width:
            return torch.zeros(self.num_rows, self.width, dtype=self.dtype)
        with self.path.open("rb") as file:
            # A private copy on write, and nobody writes: PyTorch has no memory that is read-only.
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = torch.frombuffer(
            memory, dtype=self.dtype, offset=self.offset, count=self.num_rows * self.width
        )
        return flat.view(self.num_rows, self.width)

    def in_memory(self, dtype: torch.dtype) -> Tensor:
        """The rows [V, W] in huge pages, ready to be pinned; beside them no more than a piece.

        Raises:
            OSError: the file cannot be read, or there is not so much memory.
        """
        rows = allocate(self.num_rows, self.width, dtype)
        if dtype == self.dtype:
            with self._opened() as file:
                _read(file, rows)
        else:
            self.copy_to(rows)
        return rows

    def copy_to(self, target: Tensor) -> None:
        """Fill a tensor [V, W] of any float type on any device, a piece at a time.

        Raises:
            ValueError: it has another shape.
            OSError: the file cannot be read.
        """
        if target.shape != (self.num_rows, self.width):
            raise ValueError(f"{list(target.shape)}, not {[self.num_rows, self.width]}")
        for first, piece in self.pieces():
            target[first : first + len(piece)].copy_(piece)

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """First row and rows [N, W] of each piece, in order; the next one takes its memory.

        Raises:
            OSError: the file cannot be read.
        """
        at_once = max(1, PIECE_BYTES // max(1, self.width * self.dtype.itemsize))
        buffer = torch.empty(min(at_once, self.num_rows), self.width, dtype=self.dtype)
        with self._opened() as file:
            for first in range(0, self.num_rows, at_once):
                piece = buffer[: self.num_rows - first]
                _read(file, piece)
                yield first, piece

    def _opened(self) -> FileIO:
        file = FileIO(self.path)
        file.seek(self.offset)
        return file


def _read(file: FileIO, rows: Tensor) -> None:
    """Fill contiguous rows with what comes next."""
    memory = rows.view(-1).view(torch.uint8).numpy().data
    while len(memory):
        count = file.readinto(memory[:PIECE_BYTES])
        if not count:
            raise OSError(f"{file.name!s} ended while it was read")
        memory = memory[count:]
