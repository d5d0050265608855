"""An order in which missed rows come first, neighbours in the table together, in Triton.

A counting sort by few bins: rows near each other share a bin, and which of them comes first does
not matter. A full sort of the ids takes several times as long.

Letters in shapes: N ids, V rows of the table, B bins.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit
def _bin_of(ids_ptr, slot_of_ptr, place_N, real_N, num_rows, bins):
    id_N = tl.load(ids_ptr + place_N, mask=real_N, other=0)
    inside_N = (id_N >= 0) & (id_N < num_rows)
    slot_N = tl.load(slot_of_ptr + id_N, mask=real_N & inside_N, other=0)
    near_N = tl.where(inside_N, id_N, 0) * bins // num_rows
    # Hits, and what is no row, come after all misses; in bins too, so that few share a counter.
    missed_N = inside_N & (slot_N < 0)
    return tl.where(missed_N, near_N, bins + near_N).to(tl.int32)


@triton.jit
def _count(ids_ptr, slot_of_ptr, counts_ptr, ranks_ptr, num_ids, num_rows, bins, N: tl.constexpr):
    place_N = tl.program_id(0) * N + tl.arange(0, N)
    real_N = place_N < num_ids
    bin_N = _bin_of(ids_ptr, slot_of_ptr, place_N, real_N, num_rows, bins)
    rank_N = tl.atomic_add(counts_ptr + bin_N, 1, mask=real_N)
    tl.store(ranks_ptr + place_N, rank_N, mask=real_N)


@triton.jit
def _scatter(
    ids_ptr, slot_of_ptr, ends_ptr, counts_ptr, ranks_ptr, order_ptr, num_ids, num_rows, bins,
    N: tl.constexpr,
):  # fmt: skip
    place_N = tl.program_id(0) * N + tl.arange(0, N)
    real_N = place_N < num_ids
    bin_N = _bin_of(ids_ptr, slot_of_ptr, place_N, real_N, num_rows, bins)
    end_N = tl.load(ends_ptr + bin_N, mask=real_N, other=0)
    start_N = end_N - tl.load(counts_ptr + bin_N, mask=real_N, other=0)
    rank_N = tl.load(ranks_ptr + place_N, mask=real_N, other=0)
    tl.store(order_ptr + start_N + rank_N, place_N, mask=real_N)


def misses_first(ids: Tensor, slot_of: Tensor, bins: int) -> Tensor:
    """As `genrec_kernels.cached_rows.misses_first`; ids must be contiguous."""
    num_ids, num_rows = len(ids), len(slot_of)
    order = torch.empty(num_ids, dtype=torch.int32, device=ids.device)
    if num_ids == 0:
        return order
    counts = torch.zeros(2 * bins, dtype=torch.int32, device=ids.device)
    ranks = torch.empty_like(order)
    grid = (triton.cdiv(num_ids, _BLOCK),)
    _count[grid](ids, slot_of, counts, ranks, num_ids, num_rows, bins, N=_BLOCK)
    ends = counts.cumsum(0, dtype=torch.int32)
    _scatter[grid](
        ids, slot_of, ends, counts, ranks, order, num_ids, num_rows, bins, N=_BLOCK
    )  # fmt: skip
    return order
