"""What a table of embedding rows can do, wherever its rows live.

Letters in shapes: V rows of the table, W width of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class EmbeddingTable(ABC):
    """Rows by index."""

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """V."""

    @property
    @abstractmethod
    def width(self) -> int:
        """W."""

    @abstractmethod
    def lookup(self, ids: Tensor) -> Tensor:
        """Rows of these ids.

        Has no effect that a caller could see, but an implementation may move rows to faster
        memory on the way.

        Args:
            ids: int64 [...], in [0, V); repeated ids are fine.

        Returns:
            float [..., W], on the device of the table's fast memory.

        Raises:
            IndexError: an id is out of range; the message names the first few.
        """

    def check(self, ids: Tensor) -> None:
        """Raise the IndexError of `lookup` where it is due.

        On a GPU this waits for the device, unless `ids` are still on the CPU.
        """
        outside = (ids < 0) | (ids >= self.num_rows)
        if bool(outside.any()):
            some = ", ".join(str(i) for i in ids[outside][:5].tolist())
            raise IndexError(f"row {some} of an embedding table with {self.num_rows} rows")
