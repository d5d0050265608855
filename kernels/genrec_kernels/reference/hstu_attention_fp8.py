"""HSTU attention on operands in eight bits, in plain PyTorch.

Letters in shapes: R rows of all sequences, B sequences, T padded rows, L padded history rows,
C padded candidate rows, H heads, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.fp8_layout import WEIGHT_SCALE, Fp8Rows, round_to_fp8
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.reference.fp8_rows import values_of


def hstu_attention_fp8(
    operands: Fp8Rows,
    *,
    rows: JaggedRows,
    key_limits: Tensor,
    alpha: float,
    norm_length: int,
) -> Tensor:
    """As `reference.hstu_attention` without bias and window, with weights in eight bits too.

    Args:
        operands: q, k and v.
        rows: layout of the R rows.
        key_limits: int64 [R].
        alpha: scale of q·kᵀ.
        norm_length: N.

    Returns:
        bfloat16 [R, H, D].
    """
    num_rows, heads, width = operands.q.shape
    if num_rows == 0:
        return torch.zeros((0, heads, width), dtype=torch.bfloat16, device=operands.q.device)
    scales = operands.scales
    length = rows.max_history
    v = values_of(operands, offsets=rows.offsets)
    q_BTHD, k_BTHD, v_BTHD = (rows.pad(x.float()) for x in (operands.q, operands.k, v))
    limit_BT = rows.pad(key_limits)
    alpha_H = scales.q * scales.k * alpha

    scores_BHTL = torch.einsum("bthd,blhd->bhtl", q_BTHD, k_BTHD[:, :length])
    key_L = torch.arange(length, device=key_limits.device)
    row_T = torch.arange(q_BTHD.shape[1], device=key_limits.device)
    visible_BTL = (key_L < limit_BT[:, :, None]) | (key_L == row_T[:, None])
    weights_BHTL = _weights(scores_BHTL * alpha_H[:, None, None]) * visible_BTL[:, None]
    out_BTHD = torch.einsum("bhtl,blhd->bthd", weights_BHTL, v_BTHD[:, :length])
    if rows.max_candidates:  # a candidate's own key is not among the L history keys
        own_BCH = _weights((q_BTHD[:, length:] * k_BTHD[:, length:]).sum(-1) * alpha_H)
        own_BCHD = own_BCH[..., None] * v_BTHD[:, length:]
        out_BTHD = torch.cat([out_BTHD[:, :length], out_BTHD[:, length:] + own_BCHD], 1)
    return rows.unpad(out_BTHD * (scales.v / norm_length)[:, None]).bfloat16()


def _weights(scores: Tensor) -> Tensor:
    """SiLU, as e4m3 holds it."""
    return round_to_fp8(F.silu(scores) * WEIGHT_SCALE).float() / WEIGHT_SCALE
