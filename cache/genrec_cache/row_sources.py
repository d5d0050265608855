"""Where rows come from when neither the device nor the host's memory has them.

Letters in shapes: V rows of the table, W width of a row, K ids.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec_cache.host_rows import HostRows

Ints = NDArray[np.int64]

# Rows of one request to a key-value store: some megabytes at most.
_KEYS_AT_ONCE = 1024


class RowsUnavailable(RuntimeError):
    """Rows could not be had from their source; the message names the source and some ids."""


class SparseSource(ABC):
    """Rows by any 64-bit id, slower than memory."""

    width: int
    dtype: torch.dtype

    @abstractmethod
    def read(self, ids: Ints) -> Tensor:
        """Rows [K, W] on the CPU, each id once.

        Raises:
            RowsUnavailable: the source does not answer, or lacks a row.
        """


class RowSource(SparseSource):
    """A whole table: rows of all ids in [0, V)."""

    num_rows: int


class FileRows(RowSource):
    """Rows of a raw file on disk, mapped into memory: the operating system reads what is used.

    Raises:
        ValueError: the file does not hold whole rows.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path, *, width: int, dtype: torch.dtype) -> None:
        self._rows = HostRows.mapped(path, width=width, dtype=dtype).stored.values
        self.num_rows, self.width, self.dtype = len(self._rows), width, dtype

    def read(self, ids: Ints) -> Tensor:
        """As the base class says."""
        # Ascending, so that the disk is read forwards.
        order = np.argsort(ids)
        out = torch.empty(len(ids), self.width, dtype=self.dtype)
        out[torch.from_numpy(order)] = self._rows[torch.from_numpy(ids[order])]
        return out


class KeyValueClient(Protocol):
    """What this needs of a Redis or Valkey client (`redis.Redis`, bytes as values)."""

    def mget(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Values of these keys; None where there is none."""


class RedisRows(RowSource):
    """Rows in Redis or Valkey, each the raw bytes of its values under ``prefix:id``.

    Args:
        client: connected, with a time-out of its own.
        prefix: of the keys; it should name the version of the table.
        num_rows, width, dtype: of the table.
    """

    def __init__(
        self,
        client: KeyValueClient,
        prefix: str,
        *,
        num_rows: int,
        width: int,
        dtype: torch.dtype,
    ) -> None:
        self.num_rows, self.width, self.dtype = num_rows, width, dtype
        self._client, self._prefix = client, prefix

    def read(self, ids: Ints) -> Tensor:
        """As the base class says."""
        values: list[bytes] = []
        size = self.width * self.dtype.itemsize
        for start in range(0, len(ids), _KEYS_AT_ONCE):
            part = ids[start : start + _KEYS_AT_ONCE].tolist()
            try:
                found = self._client.mget([f"{self._prefix}:{item}" for item in part])
            except Exception as error:  # whatever the client's library raises
                raise RowsUnavailable(
                    f"{len(part)} rows of {self._prefix} could not be read: {error}"
                ) from error
            for item, value in zip(part, found, strict=True):
                if value is None or len(value) != size:
                    what = "is missing" if value is None else f"has {len(value)} bytes, not {size}"
                    raise RowsUnavailable(f"row {item} of {self._prefix} {what}")
                values.append(value)
        flat = torch.frombuffer(bytearray(b"".join(values)), dtype=self.dtype) if values else None
        empty = torch.empty(0, self.width, dtype=self.dtype)
        return empty if flat is None else flat.view(-1, self.width)
