"""Which histories were asked about before, and so may be in the engine's cache."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

from genrec_model.features.rows import UserRows

#: Rows by which a history is known again: a page of most engines; less is never cached.
_ROWS = 16
#: Weight of a new request in the share of those that return.
_WEIGHT = 0.01


class ReturningHistories:
    """Remembers the last histories by how they begin.

    Args:
        most: histories that are remembered.
    """

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._paged: OrderedDict[bytes, int] = OrderedDict()
        #: Share of the requests whose history was known; everybody returns until it is known
        #: better, as an engine without a history in its cache cannot gain from it.
        self.share = 1.0

    def meet(self, rows: UserRows) -> int:
        """Note a request; events of its history that the paged engine should have."""
        if len(rows.items) < _ROWS:
            return 0
        key = _key(rows)
        known = key in self._paged
        self.share += _WEIGHT * (known - self.share)
        self._paged[key] = self._paged.get(key, 0)
        self._paged.move_to_end(key)
        if len(self._paged) > self._most:
            self._paged.popitem(last=False)
        return min(self._paged[key], len(rows.items) - 1)

    def paged(self, rows: UserRows) -> None:
        """Note that the paged engine is given this history."""
        if len(rows.items) >= _ROWS:
            self._paged[_key(rows)] = len(rows.items) - 1


def _key(rows: UserRows) -> bytes:
    digest = blake2b(digest_size=16)
    for column in (rows.items, rows.actions, rows.timestamps):
        digest.update(column[:_ROWS].tobytes())
    return digest.digest()
