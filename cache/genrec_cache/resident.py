"""A table that is on the device as a whole: the plain twin of every cleverer one."""

from __future__ import annotations

from torch import Tensor

from genrec_cache.streams import sent
from genrec_cache.table import EmbeddingTable


class ResidentTable(EmbeddingTable):
    """All rows in one tensor.

    Args:
        rows: float [V, W], kept as it is (not copied).

    Raises:
        ValueError: `rows` is not a matrix.
    """

    def __init__(self, rows: Tensor) -> None:
        if rows.dim() != 2:
            raise ValueError(f"an embedding table is [V, W], got {tuple(rows.shape)}")
        self.rows = rows

    @property
    def num_rows(self) -> int:
        """V."""
        return int(self.rows.shape[0])

    @property
    def width(self) -> int:
        """W."""
        return int(self.rows.shape[1])

    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of these ids, as the base class says."""
        self.check(ids)
        flat = self.rows.index_select(0, sent(ids.flatten(), self.rows.device))
        return flat.view(*ids.shape, self.width)
