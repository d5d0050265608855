"""Exact retrieval over an item table on the host, by a small copy on the device.

The copy says within which bounds each score lies. Only rows that may be among the best are read
from the table, and searched as the whole table would be. Where those are too many, the whole table
comes by after all.

Quantised scores with bounds that are refined from the full vectors are those of the VA-file: Weber,
Schek and Blott, "A Quantitative Analysis and Performance Study for Similarity-Search Methods in
High-Dimensional Spaces", VLDB 1998.

Letters in shapes: V rows of the item table, B users, W hidden width, E items that a user leaves
out, R rows that are read, k items found.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.row_stream import PIECE_BYTES
from genrec_cache.streams import Fence, sent_back
from genrec_kernels.top_k import TopK, top_k
from genrec_serving.vllm_plugin.streamed_catalogue import SearchCounts, StreamedCatalogue
from genrec_serving.vllm_plugin.unit_codes import UnitCodes

#: Rows that are read for a group of users, and for each item that each of them wants.
SPARE_ROWS = 512
ROWS_PER_ITEM = 8
# Of one matrix of scores, which bounds the users of a group; there are some four such matrices.
_SCORE_BYTES = 64 << 20
# Groups of one search: each reads all codes once.
_MOST_GROUPS = 8


class _Found(NamedTuple):
    """The best of the rows that were read, and what the best other row promises, once known.

    There is no better row where that is below 0. "Not at least 0" is not enough: a promise that is
    NaN is not known to be below.
    """

    best: TopK
    promise: Tensor
    known: Fence | None


class CompactCatalogue(StreamedCatalogue):
    """Searches a copy in eight bits, and reads what may be among the best.

    What it finds is what the base class finds. On a GPU a search waits once: until it is known
    whether the rows that were read are all that may be among the best. What follows in the search
    is on its way by then.

    The codes are made here, and made again once the table was swapped.

    Args:
        table: rows as the model has them.
        piece_bytes: of the table on the device at once, where the whole of it comes by.
        spare_rows, rows_per_item: rows that are read, at least 0 and 1; where they would be more
            than half of the table, that comes by as a whole.

    Raises:
        ValueError: the table's type has no bounds.
        RuntimeError: the device has no memory for the codes.
    """

    def __init__(
        self,
        table: CachedTable,
        *,
        piece_bytes: int = PIECE_BYTES,
        spare_rows: int = SPARE_ROWS,
        rows_per_item: int = ROWS_PER_ITEM,
    ) -> None:
        super().__init__(table, piece_bytes=piece_bytes)
        self._spare_rows, self._rows_per_item = spare_rows, rows_per_item
        self._codes = UnitCodes(table.host, table.device)
        # Made once: on a GPU a number in a call to `torch.where` is a kernel more.
        with torch.inference_mode(False):
            self._no_score = torch.tensor(-torch.inf, device=self.device)
            self._least = torch.tensor(torch.finfo(torch.float32).min, device=self.device)
            self._no_item = torch.tensor([-1], device=self.device)

    def search(self, users: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor) -> TopK:
        """As the base class says."""
        k = min(k, self.num_rows)
        if exclude is not None and not exclude.shape[1]:
            exclude = None
        at_once = max(1, _SCORE_BYTES // (torch.float32.itemsize * self.num_rows))
        groups = [users] if len(users) <= at_once else list(torch.split(users, at_once))
        read = sum(self._room(len(group), k) for group in groups)
        if not len(users) or len(groups) > _MOST_GROUPS or 2 * read > self.num_rows:
            return super().search(users, k, exclude=exclude, allow=allow)
        # Before the table: where it is swapped meanwhile, its rows are of another version.
        version = self._table.version
        if self._codes.host is not self._table.host:
            self._codes = UnitCodes(self._table.host, self.device)
        parts = []
        for number, group in enumerate(groups):
            first = number * at_once
            left_out = None if exclude is None else exclude[first : first + len(group)]
            parts.append(self._best(group, k, left_out, allow, version))
        short = False
        for part in parts:
            if part.known is not None:
                part.known.wait()
            short = short or not part.promise.item() < 0
        if short:
            self._count(SearchCounts(fallbacks=1, rows=read))
            return super().search(users, k, exclude=exclude, allow=allow)
        self._count(SearchCounts(searches=1, rows=read))
        found = [part.best for part in parts]
        if len(found) == 1:
            return found[0]
        return TopK(
            torch.cat([one.items for one in found]), torch.cat([one.scores for one in found])
        )

    def statistics(self) -> dict[str, float | str]:
        """As the base class says."""
        return {
            **super().statistics(),
            "search": "compact",
            "search_bytes": self._codes.num_bytes,
        }

    def _room(self, users: int, k: int) -> int:
        """Rows R that are read for a group of users."""
        return self._spare_rows + self._rows_per_item * users * k

    def _best(
        self, users: Tensor, k: int, exclude: Tensor | None, allow: Tensor, version: int
    ) -> _Found:
        """The best of the rows that promise most, and whether others may be among the best."""
        room = self._room(len(users), k)
        kept = allow
        if exclude is not None:
            kept = _kept(exclude, allow)
            if len(users) == 1:
                exclude, allow = None, kept[0]
        lower_BV, upper_BV = self._codes.bounds(users)
        # As many rows as are wanted have at least this score; those that cannot reach it are behind
        # all of them, whatever the order of equal ones. Finite, where fewer are left.
        least_Bk = torch.where(kept, lower_BV, self._least).topk(k, dim=1).values
        promise_BV = torch.where(kept, upper_BV, self._no_score).sub_(least_Bk[:, -1:])
        promise_V = promise_BV[0] if len(users) == 1 else promise_BV.amax(dim=0)
        ahead = promise_V.topk(room + 1)
        promise = sent_back(ahead.values[room:])
        cuda = self.device.type == "cuda"
        known = Fence(torch.cuda.current_stream(self.device)) if cuda else None
        # In the order of the table, which is that of equal scores.
        items_R = ahead.indices[:room].sort().values
        rows_RW, seen = self._table.gather_versioned(items_R, counted=False)
        if seen != version:
            promise = torch.zeros(1)
        # Its last entry is what an index of -1 finds.
        named = torch.cat([items_R, self._no_item])
        best = top_k(
            users,
            F.normalize(rows_RW, dim=-1),
            k,
            exclude=None if exclude is None else _places(exclude, items_R, named),
            allow=allow.index_select(0, items_R),
        )
        return _Found(TopK(named[best.items], best.scores), promise, known)


def _kept(exclude: Tensor, allow: Tensor) -> Tensor:
    """Bool [B, V]: rows that are allowed [V], but for entries [B, E]."""
    rows = len(allow)
    # Entries that are none point at a column of their own.
    kept = allow.new_empty(len(exclude), rows + 1)
    kept[:, :rows] = allow
    kept.scatter_(1, exclude.masked_fill(exclude < 0, rows), False)
    return kept[:, :rows]


def _places(exclude: Tensor, items: Tensor, named: Tensor) -> Tensor:
    """Where entries [B, E] are in ascending items [R]; -1 where they are not, or are none.

    Args:
        named: the items, and -1.
    """
    places = torch.searchsorted(items, exclude)
    return places.masked_fill_(named[places] != exclude, -1)
