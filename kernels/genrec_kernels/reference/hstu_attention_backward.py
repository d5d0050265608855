"""Gradients of HSTU attention over jagged rows, in plain PyTorch, by the formula.

Letters in shapes: R rows of all sequences, B sequences, T padded rows (history, then candidates),
H heads, Dk and Dv widths of a head, P and C entries of the position and time tables.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.jagged import JaggedRows
from genrec_kernels.relative_bias import RelativeBias, time_bucket


class HSTUAttentionGradients(NamedTuple):
    """Gradients of a scalar by the inputs of `hstu_attention`.

    q, k: [R, H, Dk]. v: [R, H, Dv]. position: [P]. time: [C] (both None without a bias).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    position: Tensor | None
    time: Tensor | None


def hstu_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rows: JaggedRows,
    key_limits: Tensor,
    timestamps: Tensor,
    alpha: float,
    norm_length: int,
    bias: RelativeBias | None = None,
    window: int | None = None,
) -> HSTUAttentionGradients:
    """Gradients for `grad_out` [R, H, Dv]; the other arguments are those of `hstu_attention`."""
    q_BTHD, k_BTHD, v_BTHD, grad_BTHD = (rows.pad(x) for x in (q, k, v, grad_out))
    limit_BT1, time_BT = rows.pad(key_limits)[:, :, None], rows.pad(timestamps)
    real_BT = rows.padded[1]

    key_T = torch.arange(q_BTHD.shape[1], device=q.device)
    distance_BTT = limit_BT1 - key_T
    seconds_BTT = time_BT[:, :, None] - time_BT[:, None, :]
    own_TT = key_T == key_T[:, None]
    if rows.max_candidates:
        distance_BTT = torch.where(own_TT & (key_T >= rows.max_history), 0, distance_BTT)
    visible_BTT = (distance_BTT > 0) & (key_T < rows.max_history)
    if window is not None:
        visible_BTT &= distance_BTT <= window
    visible_BTT = (visible_BTT | own_TT) & real_BT[:, :, None]

    scores_BHTT = torch.einsum("bihd,bjhd->bhij", q_BTHD, k_BTHD) * alpha
    if bias is not None:
        scores_BHTT = scores_BHTT + bias(distance_BTT, seconds_BTT)[:, None]
    sigmoid_BHTT = scores_BHTT.sigmoid()
    weight_BHTT = scores_BHTT * sigmoid_BHTT
    slope_BHTT = sigmoid_BHTT + weight_BHTT * (1 - sigmoid_BHTT)
    mask_B1TT = visible_BTT[:, None] / norm_length

    grad_weight_BHTT = torch.einsum("bihd,bjhd->bhij", grad_BTHD, v_BTHD)
    grad_score_BHTT = grad_weight_BHTT * slope_BHTT * mask_B1TT
    masked_BHTT = (weight_BHTT * mask_B1TT).to(v.dtype)
    scaled_BHTT = (grad_score_BHTT * alpha).to(q.dtype)
    grad_q = rows.unpad(torch.einsum("bhij,bjhd->bihd", scaled_BHTT, k_BTHD))
    grad_k = rows.unpad(torch.einsum("bhij,bihd->bjhd", scaled_BHTT, q_BTHD))
    grad_v = rows.unpad(torch.einsum("bhij,bihd->bjhd", masked_BHTT, grad_BTHD))
    if bias is None:
        return HSTUAttentionGradients(grad_q, grad_k, grad_v, None, None)
    grad_bias = grad_score_BHTT.sum(1).flatten().to(bias.position.dtype)
    nearest = distance_BTT.clamp(0, bias.position.shape[0] - 1).flatten()
    bucket = time_bucket(seconds_BTT, bias.boundaries).flatten()
    return HSTUAttentionGradients(
        grad_q,
        grad_k,
        grad_v,
        torch.zeros_like(bias.position).index_add(0, nearest, grad_bias),
        torch.zeros_like(bias.time).index_add(0, bucket, grad_bias),
    )
