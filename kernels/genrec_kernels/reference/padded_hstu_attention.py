"""HSTU attention over padded rows, in plain PyTorch: the form that graphs are exported in.

Letters in shapes: B sequences, T rows (padded history, then padded candidates), H heads, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.relative_bias import RelativeBias


def padded_hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    bias: RelativeBias,
    *,
    alpha: float,
    norm_length: float,
) -> Tensor:
    """As `hstu_attention`; all rows are keys too, and the mask sorts out who sees whom.

    Args:
        q, k, v: float [B, T, H, D].
        key_limits: int64 [B, T], history rows that a row sees besides itself. A history padded
            on the right needs no other mask: no limit reaches into its padding.
        timestamps: int64 [B, T], unix seconds.
        bias: position and time bias (zeros for a model without).
        alpha, norm_length: as in `hstu_attention`.

    Returns:
        float [B, T, H, D].
    """
    key_T = torch.arange(q.shape[1], device=q.device)
    scores_BHTT = torch.einsum("bihd,bjhd->bhij", q, k) * alpha
    distance_BTT = key_limits[:, :, None] - key_T
    seconds_BTT = timestamps[:, :, None] - timestamps[:, None, :]
    weights_BHTT = F.silu(scores_BHTT + bias(distance_BTT, seconds_BTT)[:, None]) / norm_length
    visible_BTT = (key_T < key_limits[:, :, None]) | (key_T == key_T[:, None])
    weights_BHTT = torch.where(visible_BTT[:, None], weights_BHTT, 0.0)
    return torch.einsum("bhij,bjhd->bihd", weights_BHTT, v)
