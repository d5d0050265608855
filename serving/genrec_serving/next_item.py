"""Next-item scores of users: the best of the catalogue, or of given items.

Every engine scores with this one, so that they cannot disagree on a filter or a tie.

Letters in shapes: V rows of the item table, B users, W hidden width, C items, E items that a user
leaves out, k items found.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.top_k import TopK
from genrec_model.features.reserved import NUM_RESERVED
from genrec_serving.catalogue import Catalogue, ResidentCatalogue


class NextItem:
    """Scores by the unit vectors of the item table.

    Args:
        catalogue: those; or float [V, W], from `HSTU.catalogue_embedding`.
        temperature: of the model.
    """

    def __init__(self, catalogue: Catalogue | Tensor, temperature: float) -> None:
        if isinstance(catalogue, Tensor):
            catalogue = ResidentCatalogue(catalogue)
        self._catalogue = catalogue
        self._temperature = temperature
        rows, device = self._catalogue.num_rows, self._catalogue.device
        self._items = torch.ones(rows, dtype=torch.bool, device=device)
        self._items[:NUM_RESERVED] = False

    def best(
        self, users: Tensor, *, k: int, exclude: Tensor | None = None, allow: Tensor | None = None
    ) -> TopK:
        """The best items that the filters leave; equal scores by row of the item table.

        Args:
            users: [B, W] unit vectors.
            k: at least 1; more than V gives V.
            exclude: int64 [B, E], rows to leave out; a negative one is none.
            allow: int64, the only rows to consider, of all users; None for all.

        Returns:
            int64 and float32 [B, k]; -1 and minus infinity where fewer are left.
        """
        kept = self._items
        if allow is not None:
            kept = torch.zeros_like(kept).index_fill_(0, allow, True) & kept
        found = self._catalogue.search(
            users.to(self._catalogue.dtype), k, exclude=exclude, allow=kept
        )
        return TopK(found.items, found.scores / self._temperature)

    def scores_of(self, users: Tensor, items: Tensor) -> Tensor:
        """[C, W] (or [W], one user for all) and int64 [C] to float32 [C].

        Items that are still on the CPU are checked there, so that nothing waits for a GPU.

        Raises:
            IndexError: an item is not in the table.
        """
        return scores_of_vectors(users, self._catalogue.vectors(items), self._temperature)


def scores_of_vectors(users: Tensor, items: Tensor, temperature: float) -> Tensor:
    """Next-item scores float32 [C] of users [C, W] (or [W]) and items [C, W], all unit vectors."""
    return (items.float() * users.float()).sum(-1) / temperature
