"""``LayerNorm(x) ⊙ u`` and its gradient, in plain PyTorch.

Letters in shapes: R rows, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def norm_gate(
    x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``LayerNorm(x) ⊙ u``, with the statistics that the gradient needs.

    Args:
        x, u: float [R, W].
        weight, bias: float [W].
        eps: added to the variance.

    Returns:
        float [R, W] in the dtype of `x`; mean and reciprocal standard deviation, [R], float32
        (float64 for float64).
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    x_RW = x.to(wide)
    variance_R, mean_R = torch.var_mean(x_RW, dim=1, correction=0)
    rstd_R = (variance_R + eps).rsqrt()
    normal_RW = (x_RW - mean_R[:, None]) * rstd_R[:, None]
    out_RW = (normal_RW * weight.to(wide) + bias.to(wide)) * u.to(wide)
    return out_RW.to(x.dtype), mean_R, rstd_R


def norm_gate_of_parts(
    parts: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """`norm_gate` of a sum, in the dtype of `u`.

    Args:
        parts: float [P, R, W], added up over P.
        u: float [R, W].
        weight, bias: float [W].
        eps: added to the variance.
    """
    wide = torch.promote_types(parts.dtype, torch.float32)
    out, _, _ = norm_gate(parts.to(wide).sum(0), u, weight, bias, eps)
    return out.to(u.dtype)


def norm_gate_backward(
    grad: Tensor,
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients by x, u, weight and bias, each in its input's dtype.

    Args:
        grad: float [R, W], of the result.
        x, u, weight, bias: inputs of `norm_gate`.
        mean, rstd: its statistics.
    """
    wide = mean.dtype
    normal_RW = (x.to(wide) - mean[:, None]) * rstd[:, None]
    grad_u_RW = grad.to(wide) * (normal_RW * weight.to(wide) + bias.to(wide))
    grad_norm_RW = grad.to(wide) * u.to(wide)
    grad_normal_RW = grad_norm_RW * weight.to(wide)
    along_R1 = (grad_normal_RW * normal_RW).mean(1, keepdim=True)
    grad_x_RW = grad_normal_RW - grad_normal_RW.mean(1, keepdim=True) - normal_RW * along_R1
    return (
        (grad_x_RW * rstd[:, None]).to(x.dtype),
        grad_u_RW.to(u.dtype),
        (grad_norm_RW * normal_RW).sum(0).to(weight.dtype),
        grad_norm_RW.sum(0).to(bias.dtype),
    )
