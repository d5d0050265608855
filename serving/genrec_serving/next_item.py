"""Next-item scores of a user: over the catalogue, or of given items.

Every engine scores with this one, so that they cannot disagree on a filter or a tie.

Letters in shapes: V rows of the item table, B users, W hidden width, C items, n items found.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_cache.resident import ResidentTable
from genrec_cache.table import EmbeddingTable
from genrec_model.features.reserved import NUM_RESERVED


class TopItems(NamedTuple):
    """The best items of one user, best first; equal scores by row of the item table.

    items: int64 [n].
    scores: float32 [n].
    """

    items: Tensor
    scores: Tensor


class NextItem:
    """Unit vectors of the item table, made once.

    Args:
        catalogue: float [V, W], from `HSTU.catalogue_embedding`.
        temperature: of the model.
    """

    def __init__(self, catalogue: Tensor, temperature: float) -> None:
        self._catalogue = catalogue
        self._table: EmbeddingTable = ResidentTable(catalogue)
        self._temperature = temperature

    def catalogue_scores(self, users: Tensor) -> Tensor:
        """[B, W] unit vectors to float32 [B, V]; reserved rows are minus infinity."""
        scores_BV = (users @ self._catalogue.T / self._temperature).float()
        scores_BV[:, :NUM_RESERVED] = -torch.inf
        return scores_BV

    def scores_of(self, user: Tensor, items: Tensor) -> Tensor:
        """[W] and int64 [C] to float32 [C].

        Raises:
            IndexError: an item is not in the table.
        """
        return (self._table.lookup(items) @ user / self._temperature).float()


def best(scores: Tensor, *, k: int, exclude: Tensor, allow: Tensor | None) -> TopItems:
    """The k best items that the filters leave, which may be fewer, or none.

    Args:
        scores: float32 [V], minus infinity for rows that are no items.
        k: at least 1.
        exclude: int64, rows to leave out.
        allow: int64, the only rows to consider; None for all.
    """
    if allow is not None:
        kept = torch.full_like(scores, -torch.inf)
        kept[allow] = scores[allow]
        scores = kept
    else:
        scores = scores.clone()
    scores[exclude] = -torch.inf
    top = scores.topk(min(k, scores.shape[0]))
    found = int(torch.isfinite(top.values).sum())
    return TopItems(top.indices[:found], top.values[:found])
