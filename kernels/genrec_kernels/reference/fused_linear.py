"""Linear layers with what follows them, in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """float [R, K], [N, K] and [N] to [R, N]."""
    return F.silu(F.linear(x, weight, bias))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """float [R, K], [N, K], [N] and [R, N] to [R, N]."""
    return residual + F.linear(x, weight, bias)
