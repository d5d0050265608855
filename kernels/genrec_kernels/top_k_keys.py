"""A score and its item in one integer, so that equal scores come in the order of the items.

Letters in shapes: B users, V items, k items found.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LOW = 0x7FFFFFFF


def pack(scores: Tensor) -> Tensor:
    """float32 [B, V] to int64 [B, V] of the same order: the score's bits, then the item negated."""
    bits = (scores + 0.0).view(torch.int32)  # no -0.0, which would be less than 0.0
    ordered = (bits ^ ((bits >> 31) & _LOW)).to(torch.int64)
    return (ordered << 32) | (_LOW - torch.arange(scores.shape[1], device=scores.device))


def unpack(keys: Tensor) -> tuple[Tensor, Tensor]:
    """int64 [B, k] to items, int64, and scores, float32; the item of minus infinity is -1."""
    ordered = (keys >> 32).to(torch.int32)
    scores = (ordered ^ ((ordered >> 31) & _LOW)).view(torch.float32)
    return (_LOW - (keys & _LOW)).masked_fill(scores == -torch.inf, -1), scores
