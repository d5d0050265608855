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
    if not bool(inside_N.all()):
        outside.fill_(1)
        inner_K = inside_N.nonzero()[:, 0]
        found_KW = cached_rows(
            *(ids[inner_K], slot_of, fast, host, fast_scales, host_scales, outside, dtype)
        )
        out_NW = found_KW.new_full((ids.shape[0], host.shape[1]), torch.nan)
        return out_NW.index_copy_(0, inner_K, found_KW)
    slot_N = slot_of.index_select(0, ids)
    hit_N = slot_N >= 0
    hit_K, miss_K = hit_N.nonzero()[:, 0], (~hit_N).nonzero()[:, 0]
    out_NW = torch.empty((ids.shape[0], host.shape[1]), dtype=dtype, device=ids.device)
    if hit_K.shape[0]:
        slots = slot_N.index_select(0, hit_K)
        out_NW.index_copy_(0, hit_K, _floats(fast, fast_scales, slots, dtype))
    if miss_K.shape[0]:
        missed = ids.index_select(0, miss_K).to(host.device)
        out_NW.index_copy_(0, miss_K, _floats(host, host_scales, missed, dtype).to(ids.device))
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
