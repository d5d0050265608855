"""Retrieval over an item table that stays in the host's memory.

Exact search needs a product with every item, so the whole table crosses the link once a search, a
piece at a time; users who ask in one step share it.

Letters in shapes: V rows of the item table, B users, W hidden width, C items, E items that a user
leaves out, k items found.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.row_stream import PIECE_BYTES, stream_rows
from genrec_kernels.top_k import TopK, top_k
from genrec_serving.catalogue import Catalogue

# Before what they needed says anything.
_ENOUGH_SEARCHES = 100


@dataclass(frozen=True, kw_only=True)
class SearchCounts:
    """What searches did.

    Args:
        searches: that were made, of one user or more.
        streams: of those, with the whole table.
        fallbacks: of those, after a search by a copy on the device did not do.
        rows: that were read one by one.
    """

    searches: int = 0
    streams: int = 0
    fallbacks: int = 0
    rows: int = 0

    def __add__(self, other: SearchCounts) -> SearchCounts:
        return SearchCounts(
            searches=self.searches + other.searches,
            streams=self.streams + other.streams,
            fallbacks=self.fallbacks + other.fallbacks,
            rows=self.rows + other.rows,
        )


class StreamedCatalogue(Catalogue):
    """Unit vectors made of a cached table's rows when they are needed.

    Args:
        table: rows as the model has them.
        piece_bytes: of the table on the device at once.
    """

    def __init__(self, table: CachedTable, *, piece_bytes: int = PIECE_BYTES) -> None:
        self._table = table
        self._piece_bytes = piece_bytes
        self.num_rows, self.dtype = table.num_rows, table.host.dtype
        self.device = table.device
        self._counts = SearchCounts()

    def search(self, users: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor) -> TopK:
        """As the base class says."""
        self._count(SearchCounts(searches=1, streams=1))
        k = min(k, self.num_rows)
        best = TopK(
            torch.full((len(users), k), -1, device=self.device),
            torch.full((len(users), k), -torch.inf, dtype=torch.float32, device=self.device),
        )
        rows = stream_rows(self._table.host, self.device, piece_bytes=self._piece_bytes)
        for first, piece in rows:
            found = top_k(
                users,
                F.normalize(piece, dim=-1),
                min(k, len(piece)),
                exclude=None if exclude is None else _within(exclude, first, len(piece)),
                allow=allow[first : first + len(piece)],
            )
            best = _better(best, found, first)
        return best

    def vectors(self, items: Tensor) -> Tensor:
        """As the base class says. Not counted: the layers look the items up, too."""
        self._table.check(items)
        return F.normalize(self._table.gather(items, counted=False), dim=-1)

    def statistics(self) -> dict[str, float | str]:
        """How it searches (``compact`` or ``stream``), bytes of its copy, and what it did."""
        done = self._counts
        return {
            "search": "stream",
            "search_bytes": 0,
            "searches": done.searches,
            "search_streams": done.streams,
            "search_fallbacks": done.fallbacks,
            "search_rows": done.rows,
        }

    @property
    def problem(self) -> str:
        """What an operator should mend, in words; nothing where all is well."""
        done = self._counts
        if done.searches < _ENOUGH_SEARCHES or 2 * done.fallbacks <= done.searches:
            return ""
        return (
            f"{done.fallbacks} of {done.searches} searches needed the whole table after all: "
            "without the copy (search: stream) they take less time"
        )

    def _count(self, more: SearchCounts) -> None:
        self._counts += more


def _within(exclude: Tensor, first: int, count: int) -> Tensor:
    """Entries [B, E] counted from the first row of a piece; those of others are none."""
    inside = (exclude >= first) & (exclude < first + count)
    return torch.where(inside, exclude - first, -1)


def _better(best: TopK, found: TopK, first: int) -> TopK:
    """The best of [B, k] and of a piece; of equals those that came first have the lower rows."""
    items = torch.where(found.items < 0, -1, found.items + first)
    scores = torch.cat([best.scores, found.scores], dim=1)
    order = scores.sort(dim=1, descending=True, stable=True)
    k = best.scores.shape[1]
    places = order.indices[:, :k]
    return TopK(torch.cat([best.items, items], dim=1).gather(1, places), order.values[:, :k])
