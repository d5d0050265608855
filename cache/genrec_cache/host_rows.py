"""The whole table in the host's memory: as floats, or as int8 with a scale a row.

Letters in shapes: V rows of the table, W width of a row, K ids.
"""

from __future__ import annotations

import hashlib
import logging
import weakref
from pathlib import Path

import torch
from torch import Tensor

from genrec_cache.host_memory import PinFailed, pin
from genrec_kernels.cached_rows import StoredRows

_log = logging.getLogger(__name__)


class HostRows:
    """Rows as they are stored, and where a GPU can read them.

    Args:
        values: float or int8 [V, W] on the CPU, kept as it is (not copied); it must not change
            while it is used.
        scales: float32 [V] of int8 rows, which stand for ``values * scales``.
        dtype: of the rows that a lookup returns; by default that of `values`, float32 for int8.

    Raises:
        ValueError: `values` is not a matrix on the CPU, or scales are given for floats or missing
            for int8.
    """

    def __init__(
        self, values: Tensor, scales: Tensor | None = None, *, dtype: torch.dtype | None = None
    ) -> None:
        if values.dim() != 2:
            raise ValueError(f"an embedding table is [V, W], got {tuple(values.shape)}")
        if values.device.type != "cpu":
            raise ValueError(f"the table stays on the host, not on {values.device}")
        if (values.dtype == torch.int8) != (scales is not None):
            raise ValueError("int8 rows, and no others, have scales")
        if scales is not None and (scales.shape != values.shape[:1]):
            raise ValueError(f"{len(values)} rows need as many scales, not {len(scales)}")
        own = torch.float32 if values.dtype == torch.int8 else values.dtype
        self.dtype = own if dtype is None else dtype
        self.stored = StoredRows(
            values.contiguous(), None if scales is None else scales.float().contiguous()
        )
        self.pinned = values.is_pinned() if torch.cuda.is_available() else False
        #: Why a GPU cannot read the rows by itself, if that was tried in vain.
        self.problem: str | None = None

    @classmethod
    def quantized(cls, rows: Tensor, *, dtype: torch.dtype = torch.float32) -> HostRows:
        """Float rows [V, W] as int8, scaled so that each row's largest value is 127."""
        largest = rows.abs().amax(dim=1).float() if rows.numel() else rows.new_zeros(len(rows))
        scales = torch.where(largest > 0, largest / 127.0, 1.0).float()
        values = (rows.float() / scales[:, None]).round().clamp(-127, 127).to(torch.int8)
        return cls(values, scales, dtype=dtype)

    @classmethod
    def mapped(cls, path: Path, *, width: int, dtype: torch.dtype) -> HostRows:
        """Rows of a raw file, mapped into memory and read where they are needed.

        Raises:
            ValueError: the file does not hold whole rows.
            OSError: it cannot be read.
        """
        size, row = path.stat().st_size, width * dtype.itemsize
        if not size or size % row:
            raise ValueError(f"{path} holds {size} bytes, which are no rows of {row}")
        flat = torch.from_file(str(path), shared=False, size=size // dtype.itemsize, dtype=dtype)
        return cls(flat.view(-1, width))

    @property
    def num_rows(self) -> int:
        """V."""
        return int(self.stored.values.shape[0])

    @property
    def width(self) -> int:
        """W."""
        return int(self.stored.values.shape[1])

    @property
    def num_bytes(self) -> int:
        """Of the rows as they are stored."""
        return sum(part.nbytes for part in self.stored if part is not None)

    @property
    def layout(self) -> tuple[int, torch.dtype, torch.dtype]:
        """What two tables must share so that one can follow the other."""
        return self.width, self.stored.values.dtype, self.dtype

    def pin(self) -> bool:
        """Let GPUs read the rows by address; whether they can.

        Where the host refuses, the rows are gathered by the CPU instead: that is logged once, and
        `problem` says why.
        """
        if self.pinned or self.problem is not None:
            return self.pinned
        try:
            for part in self.stored:
                if part is not None and part.numel():
                    weakref.finalize(self, pin(part))
        except PinFailed as error:
            self.problem = str(error)
            _log.warning("rows are gathered by the CPU, not read by the GPU: %s", error)
        else:
            self.pinned = True
        return self.pinned

    def empty_slots(self, capacity: int, device: torch.device) -> StoredRows:
        """Room for rows of this kind on a device."""
        values = torch.empty((capacity, self.width), dtype=self.stored.values.dtype, device=device)
        if self.stored.scales is None:
            return StoredRows(values)
        return StoredRows(values, torch.empty(capacity, dtype=torch.float32, device=device))

    def digest(self) -> str:
        """Of rows spread over the table, its shape and type: tells versions apart, not bits."""
        step = max(1, self.num_rows // 1024)
        out = hashlib.sha256(f"{self.num_rows} {self.layout}".encode())
        for part in self.stored:
            if part is not None:
                sample = part[::step].contiguous().view(torch.uint8)
                out.update(sample.numpy().tobytes())
        return out.hexdigest()
