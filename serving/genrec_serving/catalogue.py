"""Unit vectors of the item table, to search and to look up: on the device as a whole, or not.

Letters in shapes: V rows of the item table, B users, W hidden width, C items, E items that a user
leaves out, k items found.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from genrec_cache.resident import ResidentTable
from genrec_kernels.top_k import TopK, top_k


class Catalogue(ABC):
    """All items as unit vectors of one data type on one device."""

    num_rows: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def search(self, users: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor) -> TopK:
        """The items of the k largest products, exact but for the rounding; ties by row.

        Args:
            users: [B, W] of the catalogue's type.
            k: at least 1; more than V gives V.
            exclude: int64 [B, E], rows to leave out, below V; a negative one is none.
            allow: bool [V], the rows to consider.
        """

    @abstractmethod
    def vectors(self, items: Tensor) -> Tensor:
        """[C, W] of rows int64 [C]; nothing waits for a GPU where those are on the CPU.

        Raises:
            IndexError: an item is not in the table.
        """


class ResidentCatalogue(Catalogue):
    """All vectors in one tensor.

    Args:
        vectors: float [V, W], kept as it is (not copied).
    """

    def __init__(self, vectors: Tensor) -> None:
        self._table = ResidentTable(vectors)
        self.num_rows, self.dtype, self.device = len(vectors), vectors.dtype, vectors.device

    def search(self, users: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor) -> TopK:
        """As the base class says."""
        return top_k(users, self._table.rows, k, exclude=exclude, allow=allow)

    def vectors(self, items: Tensor) -> Tensor:
        """As the base class says."""
        return self._table.lookup(items)
