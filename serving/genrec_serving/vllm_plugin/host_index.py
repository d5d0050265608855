"""Which pages the host's memory holds, and whether to bring them back pays.

Letters: P pages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

#: Weight of a new measurement in a mean.
_WEIGHT = 0.2


class HostIndex:
    """Slot of each page in the host's memory, by the hash of the page and all before it.

    Where there is no room, the page that was used least recently leaves.

    Args:
        slots: pages that there is room for, at least 1.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.evictions = 0
        self._slot_of: OrderedDict[bytes, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._slot_of)

    def count(self, hashes: Sequence[bytes]) -> int:
        """Pages that are held, up to the first that is not."""
        return sum(1 for _ in takewhile(self._slot_of.__contains__, hashes))

    def use(self, page: bytes) -> int | None:
        """Slot of a page, which is now the one used last; None where it is not held."""
        slot = self._slot_of.get(page)
        if slot is not None:
            self._slot_of.move_to_end(page)
        return slot

    def put(self, page: bytes) -> int | None:
        """A slot for a page, which is now the one used last; None where it is held already."""
        if self.use(page) is not None:
            return None
        slot = len(self._slot_of)
        if slot >= self.slots:
            _, slot = self._slot_of.popitem(last=False)
            self.evictions += 1
        self._slot_of[page] = slot
        return slot


class Measured(NamedTuple):
    """What a worker measured of late; None where nothing.

    ms_per_row: of rows that were computed.
    bytes_per_ms: that were copied from the host.
    """

    ms_per_row: float | None = None
    bytes_per_ms: float | None = None


@dataclass
class PageCosts:
    """Means of what computing and copying take.

    Args:
        row_bytes: of keys, values and time in all layers.
    """

    row_bytes: int
    ms_per_row: float | None = None
    bytes_per_ms: float | None = None

    def learn(self, measured: Measured) -> None:
        """Count a measurement in."""
        self.ms_per_row = _mean(self.ms_per_row, measured.ms_per_row)
        self.bytes_per_ms = _mean(self.bytes_per_ms, measured.bytes_per_ms)

    def copying_pays(self, rows: int) -> bool:
        """Whether to bring rows back is quicker than to compute them; yes until both are known."""
        if self.ms_per_row is None or self.bytes_per_ms is None:
            return True
        return rows * self.row_bytes / self.bytes_per_ms < rows * self.ms_per_row


def _mean(old: float | None, new: float | None) -> float | None:
    if old is None or new is None:
        return new if old is None else old
    return old + _WEIGHT * (new - old)
