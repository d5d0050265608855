"""Rows of many sequences in one tensor, without padding.

Letters in shapes: R rows of all sequences, B sequences, L longest history, C most candidates,
H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class JaggedRows:
    """Where each sequence's rows are: its history rows first, then its candidate rows.

    Args:
        history_lengths: int64 [B], history rows of each sequence (0 is allowed).
        num_candidates: int64 [B], candidate rows of each sequence (0 is allowed).
    """

    history_lengths: Tensor
    num_candidates: Tensor

    def to(self, device: torch.device) -> JaggedRows:
        """The same layout on another device."""
        if self.history_lengths.device == device:
            return self
        return JaggedRows(self.history_lengths.to(device), self.num_candidates.to(device))

    @cached_property
    def lengths(self) -> Tensor:
        """int64 [B], rows of each sequence."""
        return self.history_lengths + self.num_candidates

    @cached_property
    def offsets(self) -> Tensor:
        """int64 [B + 1], first row of each sequence."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    @cached_property
    def max_history(self) -> int:
        """L."""
        return int(self.history_lengths.max()) if self.history_lengths.numel() else 0

    @cached_property
    def max_candidates(self) -> int:
        """C."""
        return int(self.num_candidates.max()) if self.num_candidates.numel() else 0

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """Row of each padded position, and whether it is a real one: int64, bool [B, L + C].

        History takes the first L positions and candidates the last C, each padded on the right.
        Padding points at row 0, which keeps gathers in bounds.
        """
        history = torch.arange(self.max_history, device=self.offsets.device)
        candidate = torch.arange(self.max_candidates, device=self.offsets.device)
        start = self.offsets[:-1, None]
        row = torch.cat([start + history, start + self.history_lengths[:, None] + candidate], 1)
        real = torch.cat(
            [history < self.history_lengths[:, None], candidate < self.num_candidates[:, None]], 1
        )
        return torch.where(real, row, 0), real

    def pad(self, rows: Tensor) -> Tensor:
        """[R, ...] to [B, L + C, ...]; padding holds arbitrary rows."""
        index, _ = self.padded
        flat = rows.index_select(0, index.flatten())
        return flat.view(*index.shape, *rows.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, L + C, ...] to [R, ...]."""
        index, real = self.padded
        position = torch.empty(int(self.offsets[-1]), dtype=torch.int64, device=index.device)
        position[index[real]] = real.flatten().nonzero().squeeze(1)
        return padded.flatten(0, 1).index_select(0, position)


def offsets_of(rows: JaggedRows) -> Tensor:
    """`JaggedRows.offsets`, also where a compiler traces.

    It cannot follow the lock that Python 3.11's cached_property takes.
    """
    if not torch.compiler.is_compiling():
        return rows.offsets
    lengths = rows.history_lengths + rows.num_candidates
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
