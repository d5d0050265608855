"""``SiLU(x · Wᵀ + b)`` in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """float [R, K], [N, K] and [N] to [R, N]."""
    return F.silu(F.linear(x, weight, bias))
