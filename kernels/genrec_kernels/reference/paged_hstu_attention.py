"""HSTU attention of new rows over a paged history, in plain PyTorch.

Letters in shapes: R new rows of all requests, B requests, P pages of the cache, S rows a page,
M pages of the longest request, H heads, D head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.fp8_layout import WEIGHT_SCALE, round_to_fp8
from genrec_kernels.fp8_pages import narrow_factors, pages_of
from genrec_kernels.relative_bias import RelativeBias


def paged_hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    kv_pages: Tensor,
    timestamp_pages: Tensor,
    page_table: Tensor,
    row_offsets: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    alpha: float,
    norm_length: int,
    bias: RelativeBias | None = None,
    kv_scales: Tensor | None = None,
    q_scales: Tensor | None = None,
) -> Tensor:
    """As `hstu_attention`, with the history's keys and values in pages.

    Each new row sees the first `key_limits` rows of its request in the pages, and itself; its own
    key and value are `k` and `v`. So history rows and candidate rows are one and the same case,
    and nothing here is written: a history row's page may or may not hold it already.

    Args:
        q, k, v: float [R, H, D], rows of each request together.
        kv_pages: float [P, H, S, 2·D], keys in the first half of the last axis.
        timestamp_pages: int64 [P, S].
        page_table: int [B, M], pages of each request in order; entries past its history are
            never read.
        row_offsets: int64 [B + 1], first new row of each request.
        key_limits: int64 [R].
        timestamps: int64 [R], unix seconds.
        alpha, norm_length, bias: as in `hstu_attention`.
        kv_scales: float32 [2, H] of float8 pages, see `fp8_pages`; None for others.
        q_scales: float32 [H]: queries, divided by these, and weights are rounded to float8 where
            they meet pages, as where the tensor cores multiply in eight bits; None: they are not.

    Returns:
        float [R, H, D], in the dtype of `q`.
    """
    out = torch.empty_like(q)
    seeing = q
    if q_scales is not None:
        seeing = narrow_factors(q, q_scales).to(q.dtype) * q_scales.to(q.dtype)[:, None]
    page_size = kv_pages.shape[2]
    starts = row_offsets.tolist()
    for request in range(len(starts) - 1):
        new = slice(starts[request], starts[request + 1])
        if new.start == new.stop:
            continue
        limit_T = key_limits[new]
        length = int(limit_T.max())
        pages = page_table[request, : -(-length // page_size)].long()
        numbers = pages_of(kv_pages, pages, kv_scales, q.dtype)
        kv_HLD = numbers.transpose(0, 1).flatten(1, 2)[:, :length]
        k_HLD, v_HLD = kv_HLD.chunk(2, dim=-1)
        key_L = torch.arange(length, device=q.device)

        scores_HTL = torch.einsum("thd,hld->htl", seeing[new], k_HLD) * alpha
        own_TH = (q[new] * k[new]).sum(-1) * alpha
        if bias is not None:
            key_time_L = timestamp_pages[pages].flatten()[:length]
            seconds_TL = timestamps[new][:, None] - key_time_L
            scores_HTL = scores_HTL + bias(limit_T[:, None] - key_L, seconds_TL)
            own_TH = own_TH + bias.self_bias()
        weights_HTL = F.silu(scores_HTL)
        if q_scales is not None:
            weights_HTL = round_to_fp8(weights_HTL * WEIGHT_SCALE).to(q.dtype) / WEIGHT_SCALE
        weights_HTL = weights_HTL * (key_L < limit_T[:, None]) / norm_length
        out[new] = torch.einsum("htl,hld->thd", weights_HTL, v_HLD)
        out[new] += (F.silu(own_TH) / norm_length)[..., None] * v[new]
    return out
