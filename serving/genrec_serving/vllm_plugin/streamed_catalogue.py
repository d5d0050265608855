"""Retrieval over an item table that stays in the host's memory.

Exact search needs a product with every item, so the whole table crosses the link once a search, a
piece at a time; users who ask in one step share it.

Letters in shapes: V rows of the item table, B users, W hidden width, C items, E items that a user
leaves out, k items found.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.row_stream import PIECE_BYTES, stream_rows
from genrec_kernels.top_k import TopK, top_k
from genrec_serving.catalogue import Catalogue


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

    def search(self, users: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor) -> TopK:
        """As the base class says."""
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
