"""HSTU attention over jagged rows, in plain PyTorch.

Letters in shapes: R rows of all sequences, B sequences, T padded rows, L padded history rows,
C padded candidate rows, H heads, Dk and Dv widths of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.jagged import JaggedRows
from genrec_kernels.relative_bias import RelativeBias


def hstu_attention(
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
) -> Tensor:
    """``SiLU(q·kᵀ·alpha + rab) / N ⊙ mask · v`` (arXiv 2402.17152, equation 3).

    A row sees the first `key_limits` history rows of its sequence, and itself. History row ``i``
    has limit ``i`` (causal); a candidate at serving time has the history's length; a candidate
    in training has the number of rows that came before it. Candidates never see each other.

    Args:
        q, k: float [R, H, Dk].
        v: float [R, H, Dv].
        rows: layout of the R rows.
        key_limits: int64 [R].
        timestamps: int64 [R], unix seconds.
        alpha: scale of q·kᵀ.
        norm_length: N, the same for every sequence, so that no score depends on its batch-mates.
        bias: position and time bias, or None.
        window: a row sees only the last `window` of its `key_limits` rows; None for all of them.

    Returns:
        float [R, H, Dv], in the dtype of `v`.
    """
    if q.shape[0] == 0:
        return torch.zeros_like(v)
    length = rows.max_history
    q_BTHD, k_BTHD, v_BTHD = rows.pad(q), rows.pad(k), rows.pad(v)
    limit_BT, time_BT = rows.pad(key_limits), rows.pad(timestamps)

    scores_BHTL = torch.einsum("bthd,blhd->bhtl", q_BTHD, k_BTHD[:, :length]) * alpha
    key_L = torch.arange(length, device=q.device)
    row_T = torch.arange(q_BTHD.shape[1], device=q.device)
    if bias is not None:
        distance_BTL = limit_BT[:, :, None] - key_L
        seconds_BTL = time_BT[:, :, None] - time_BT[:, None, :length]
        scores_BHTL = scores_BHTL + bias(distance_BTL, seconds_BTL)[:, None]
    visible_BTL = key_L < limit_BT[:, :, None]
    if window is not None:
        visible_BTL &= key_L >= limit_BT[:, :, None] - window
    visible_BTL = visible_BTL | (key_L == row_T[:, None])
    weights_BHTL = F.silu(scores_BHTL) * visible_BTL[:, None] / norm_length
    # Tables are often wider than v: float32 parameters beside bfloat16 rows.
    out_BTHD = torch.einsum("bhtl,blhd->bthd", weights_BHTL.to(v.dtype), v_BTHD[:, :length])

    if rows.max_candidates:  # a candidate's own key is not among the L history keys
        own_BCH = (q_BTHD[:, length:] * k_BTHD[:, length:]).sum(-1) * alpha
        if bias is not None:
            own_BCH = own_BCH + bias.self_bias()
        own_BCHD = (F.silu(own_BCH) / norm_length)[..., None].to(v.dtype) * v_BTHD[:, length:]
        out_BTHD = torch.cat([out_BTHD[:, :length], out_BTHD[:, length:] + own_BCHD], 1)
    return rows.unpad(out_BTHD)
