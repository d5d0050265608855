"""Launches the kernels of paged HSTU attention.

Letters in shapes: R new rows, B requests, H heads, D head width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from genrec_kernels.dispatch import interpreting
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.paged_hstu_kernels import attend, bias_rows, sum_splits
from genrec_kernels.triton.paged_plan import PagedPlan

#: Elements of an output that one program of `sum_splits` adds up.
SUM_BLOCK = 512
#: Keys that one program of `bias_rows` takes.
BIAS_BLOCK = 512
#: Most buckets of which the last starts before 2^30 seconds: e^(0.301 · 68) < 2^30.
_SHORT_BUCKETS = 69


def _descriptor(
    q: Tensor, kv_pages: Tensor, plan: PagedPlan
) -> tuple[Any, tuple[int, int, int]] | None:
    """The pages as one matrix for the tensor memory accelerator, if plan and layout allow it.

    Returns:
        Its descriptor, and how to find a block in it: matrix rows a page, matrix rows a head,
        matrix columns a head (heads lie below or beside each other).
    """
    num_pages, num_heads, page_size, width = kv_pages.shape
    page_step, head_step, row_step, _ = kv_pages.stride()
    head_dim = width // 2
    if (
        not plan.tma
        or kv_pages.dtype != q.dtype
        or page_size % plan.block_keys
        or head_dim < 16
        or head_dim & (head_dim - 1)
        or row_step * kv_pages.element_size() % 16
        or kv_pages.data_ptr() % 16
        or page_step % row_step
    ):
        return None
    if head_step % row_step == 0:
        head_rows, head_columns = head_step // row_step, 0
    elif head_step * (num_heads - 1) + width <= row_step:
        head_rows, head_columns = 0, head_step
    else:
        return None
    rows = (num_pages - 1) * (page_step // row_step) + (num_heads - 1) * head_rows + page_size
    if rows >= 2**31:
        return None
    descriptor = TensorDescriptor(
        kv_pages,
        [rows, (num_heads - 1) * head_columns + width],
        [row_step, 1],
        [plan.block_keys, head_dim],
    )
    return descriptor, (page_step // row_step, head_rows, head_columns)


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
    bias: RelativeBias | None,
    kv_scales: Tensor | None,
    plan: PagedPlan,
    in_parts: bool = False,
) -> Tensor:
    """As `genrec_kernels.paged_hstu_attention`, with tiles and splits as `plan` has them.

    The last axes of q, k, v and kv_pages must be contiguous; `plan` must be for this call's
    shapes.
    """
    num_rows, num_heads, head_dim = q.shape
    num_requests = row_offsets.shape[0] - 1
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if num_rows == 0:
        return out[None] if in_parts else out
    splits = plan.num_splits
    target = out
    if splits > 1:
        target = torch.empty((splits, *q.shape), dtype=torch.float32, device=q.device)
    position, time, boundaries = (q, q, q) if bias is None else bias
    interpreted = interpreting()
    half_rows = q
    if bias is not None:
        half_rows = torch.empty((num_requests, plan.max_keys), dtype=torch.float32, device=q.device)
        bias_rows[(num_requests, triton.cdiv(plan.max_keys, BIAS_BLOCK))](
            timestamp_pages, page_table, row_offsets, key_limits, timestamps,
            position, time, boundaries, half_rows,
            timestamp_pages.stride(0), timestamp_pages.stride(1), page_table.stride(0),
            half_rows.stride(0), position.shape[0], time.shape[0],
            BLOCK=BIAS_BLOCK, PAGE=kv_pages.shape[2], ASM=not interpreted, num_warps=4,
        )  # fmt: skip
    descriptor, steps = _descriptor(q, kv_pages, plan) or (None, (0, 0, 0))
    # Of eight bits, the keys of a head lie together (`fp8_pages`).
    kv_row = kv_pages.stride(2) if kv_scales is None else head_dim
    attend[(plan.num_tiles, num_heads, splits)](
        q, k, v, kv_pages, descriptor or kv_pages, timestamp_pages, page_table, row_offsets,
        key_limits, timestamps, position, time, boundaries, half_rows,
        q if kv_scales is None else kv_scales, target,
        q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        kv_pages.stride(0), kv_pages.stride(1), kv_row, *steps,
        timestamp_pages.stride(0), timestamp_pages.stride(1), page_table.stride(0),
        half_rows.stride(0), out.numel(), target.stride(-3), target.stride(-2),
        num_requests, plan.tiles_per_request, splits,
        position.shape[0], time.shape[0], alpha / 2, 1.0 / norm_length,
        HEAD_DIM=head_dim, BLOCK_DIM=max(triton.next_power_of_2(head_dim), 16),
        BLOCK_ROWS=plan.block_rows, BLOCK_KEYS=plan.block_keys, PAGE=kv_pages.shape[2],
        PACKED=plan.packed, HAS_BIAS=bias is not None, SCALED=kv_scales is not None,
        SHORT=time.shape[0] <= _SHORT_BUCKETS,
        FAST=q.dtype != torch.float32 and not interpreted,
        UPCAST=interpreted and q.dtype == torch.bfloat16,
        ASM=not interpreted, TMA=descriptor is not None,
        PDL=plan.tma and splits > 1 and not in_parts,
        STAGES=plan.num_stages, num_warps=plan.num_warps,
    )  # fmt: skip
    if in_parts:
        return target if splits > 1 else out[None]
    if splits > 1:
        add_parts(target, out, splits, most=triton.next_power_of_2(splits), early=plan.tma)
    return out


def add_parts(
    partial: Tensor,
    out: Tensor,
    splits: int,
    *,
    most: int,
    block: int = SUM_BLOCK,
    early: bool = False,
) -> None:
    """Add what each part of the keys gave, always in the same order.

    Args:
        partial: float32, `splits` times as many elements as `out`.
        out: to [R, H, D].
        most: parts that a program can add, a power of 2 (for each it is compiled).
        block: elements of one program.
        early: the kernel before lets this one be set up while it runs (sm_90).
    """
    sum_splits[(triton.cdiv(out.numel(), block),)](
        partial, out, out.numel(), splits,
        BLOCK=block, BLOCK_SPLITS=most, PDL=early, num_warps=4, launch_pdl=early,
    )  # fmt: skip
