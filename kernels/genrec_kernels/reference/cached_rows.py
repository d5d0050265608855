"""Rows of a table whose hot part is in fast memory, in plain PyTorch.

Letters in shapes: N ids, V rows of the table, C slots, W width of a row, K rows to copy.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cached_rows(
    ids: Tensor,
    slot_of: Tensor,
    fast: Tensor,
    host: Tensor,
    fast_scales: Tensor | None,
    host_scales: Tensor | None,
    outside: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """As `genrec_kernels.cached_rows`; misses are gathered where the table is, then moved."""
    inside_N = (ids >= 0) & (ids < len(slot_of))
    safe_N = torch.where(inside_N, ids, 0) if len(slot_of) else ids
    slot_N = torch.where(inside_N, slot_of[safe_N] if len(slot_of) else -1, -1).long()
    hit_K = (slot_N >= 0).nonzero()[:, 0]
    miss_K = (inside_N & (slot_N < 0)).nonzero()[:, 0]
    out_NW = torch.empty((len(ids), host.shape[1]), dtype=dtype, device=ids.device)
    out_NW.index_copy_(0, hit_K, _floats(fast, fast_scales, slot_N[hit_K], dtype))
    missed = safe_N[miss_K].to(host.device)
    out_NW.index_copy_(0, miss_K, _floats(host, host_scales, missed, dtype).to(ids.device))
    if len(hit_K) + len(miss_K) < len(ids):
        out_NW.masked_fill_(~inside_N[:, None], torch.nan)
        outside.fill_(1)
    return out_NW


def misses_first(ids: Tensor, slot_of: Tensor, bins: int) -> Tensor:
    """As `genrec_kernels.misses_first`; of a bin, the places are in ascending order."""
    inside_N = (ids >= 0) & (ids < len(slot_of))
    safe_N = torch.where(inside_N, ids, 0)
    missed_N = inside_N & (slot_of[safe_N] < 0) if len(slot_of) else inside_N
    near_N = safe_N * bins // max(1, len(slot_of))
    return torch.where(missed_N, near_N, bins + near_N).argsort(stable=True).int()


def copy_rows(
    ids: Tensor,
    slots: Tensor,
    source: Tensor,
    target: Tensor,
    source_scales: Tensor | None,
    target_scales: Tensor | None,
) -> None:
    """As `genrec_kernels.copy_rows`."""
    there, slots = ids.to(source.device), slots.to(target.device).long()
    target[slots] = source[there].to(target.device)
    if source_scales is not None and target_scales is not None:
        target_scales[slots] = source_scales[there].to(target.device)


def _floats(rows: Tensor, scales: Tensor | None, at: Tensor, dtype: torch.dtype) -> Tensor:
    if scales is None:
        return rows.index_select(0, at).to(dtype)
    return (rows[at].float() * scales[at].float()[:, None]).to(dtype)
