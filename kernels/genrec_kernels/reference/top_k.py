"""The best items of each user, in plain PyTorch.

Letters in shapes: B users, V items, W width, E items that a user leaves out, k items found.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_k(
    users: Tensor, items: Tensor, k: int, *, exclude: Tensor | None, allow: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Items of the k largest ``users · items``, and their scores; best first, ties by item.

    Args:
        users: float [B, W].
        items: float [V, W].
        k: at most V.
        exclude: int64 [B, E], items that a user leaves out; a negative entry is none.
        allow: bool [V], the items to consider, or None for all.

    Returns:
        int64 [B, k] and float32 [B, k] (float64 for float64 inputs); -1 and minus infinity where
        the filters leave fewer than k.
    """
    scores_BV = users @ items.T
    scores_BV = scores_BV.to(torch.promote_types(scores_BV.dtype, torch.float32))
    best = leave_out(scores_BV, exclude, allow).sort(dim=1, descending=True, stable=True)
    scores_Bk, items_Bk = best.values[:, :k], best.indices[:, :k]
    return items_Bk.masked_fill(scores_Bk == -torch.inf, -1), scores_Bk.contiguous()


def leave_out(scores: Tensor, exclude: Tensor | None, allow: Tensor | None) -> Tensor:
    """Minus infinity where the filters of `top_k` leave an item out of scores [B, V]."""
    if allow is not None:
        scores = scores.masked_fill(~allow, -torch.inf)
    if exclude is not None:
        # Entries that are none point at a column of their own.
        num_items = scores.shape[1]
        left_out_BV = scores.new_zeros(len(exclude), num_items + 1, dtype=torch.bool)
        left_out_BV.scatter_(1, torch.where(exclude < 0, num_items, exclude), True)
        scores = scores.masked_fill(left_out_BV[:, :-1], -torch.inf)
    return scores
