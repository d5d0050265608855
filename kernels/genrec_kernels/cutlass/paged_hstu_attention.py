"""Launches the CUTLASS kernels of paged attention.

Letters in shapes: R new rows, B requests, P pages, S rows a page, H heads, D width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.block_sizes import MOST_SEQUENCES
from genrec_kernels.cutlass.claims import claim_counter
from genrec_kernels.cutlass.hstu_attention import L2_BYTES, for_tma, multiprocessors, reads_by_tma
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels, launch
from genrec_kernels.cutlass.parameters import paged_parameters
from genrec_kernels.cutlass.variants import (
    ELEMENTS,
    PAGE_KEYS,
    WIDTHS,
    AttentionVariant,
    paged_variant_of,
)
from genrec_kernels.paged_bias import matrix_bytes
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.paged_plan import choose_splits

#: Most memory that a layer's bias matrix may take.
MOST_BIAS_BYTES = 128 * 2**20
#: New rows of a request for which Triton's tiles of 16 and 32 rows are better.
FEW_ROWS = 32


def unsupported(
    q: Tensor,
    kv_pages: Tensor,
    *,
    num_requests: int,
    max_keys: int,
    has_bias: bool,
    same_bias: bool,
) -> str | None:
    """Why no compiled kernel takes these inputs, whatever the GPU; None if one does."""
    width, page_size = q.shape[2], kv_pages.shape[2]
    if q.dtype not in ELEMENTS or kv_pages.dtype != q.dtype or width not in WIDTHS:
        return (
            f"its kernels take bfloat16 and float16, rows and pages alike, and heads of "
            f"{', '.join(map(str, WIDTHS))}, not {q.dtype} and {kv_pages.dtype} of {width}"
        )
    if page_size % PAGE_KEYS or not reads_by_tma(kv_pages):
        return (
            f"its kernels take pages of a multiple of {PAGE_KEYS} rows whose strides are "
            f"multiples of 16 bytes, not of {page_size} rows with strides {kv_pages.stride()}"
        )
    needed = matrix_bytes(
        num_rows=q.shape[0], num_requests=num_requests, max_keys=max_keys, same_bias=same_bias
    )
    if has_bias and needed > MOST_BIAS_BYTES:
        return (
            f"the bias of {q.shape[0]} rows on up to {max_keys} keys would take "
            f"{needed >> 20} MiB, more than {MOST_BIAS_BYTES >> 20}"
        )
    return None


def pays(q: Tensor, *, num_requests: int, max_new_rows: int, max_keys: int) -> bool:
    """Whether a call of these sizes is faster than in Triton, as measured on an H200.

    Few rows are bound by memory, and where keys are cut into parts, what adds these up is started
    later than Triton can start it.
    """
    if max_new_rows <= FEW_ROWS:
        return False
    variant = paged_variant_of(
        "bf16", q.shape[2], bias=False, same_bias=False, max_new_rows=max_new_rows
    )
    plan = _plan(variant, q, num_requests, max_new_rows, max_keys)
    return plan.splits == 1


class _Plan(NamedTuple):
    """How a call is cut up.

    blocks: of the grid.
    splits: parts that the keys are cut into.
    group: requests that run side by side.
    """

    blocks: int
    splits: int
    group: int


def _plan(
    variant: AttentionVariant, q: Tensor, num_requests: int, max_new_rows: int, max_keys: int
) -> _Plan:
    num_rows, num_heads, width = q.shape
    tiles_per_request = -(-max(max_new_rows, 1) // variant.rows)
    tiles = min(num_requests * tiles_per_request, num_rows // variant.rows + num_requests)
    slots = multiprocessors(q.device) * variant.resident
    splits = choose_splits(tiles * num_heads, slots, max_keys)
    group = min(num_requests, MOST_SEQUENCES)
    if tiles_per_request > 1:  # whose keys are read again, from the L2 cache if they are there
        request_bytes = max_keys * num_heads * 2 * width * q.element_size()
        group = min(group, max(L2_BYTES // max(request_bytes, 1), 1))
    return _Plan(min(slots, tiles * num_heads * splits), splits, group)


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
    max_new_rows: int,
    max_keys: int,
    same_bias: bool,
    kernel: CompiledKernel | None = None,
) -> Tensor:
    """As `genrec_kernels.paged_hstu_attention`, for inputs that are not `unsupported`.

    Args:
        kernel: instead of the one for these inputs, for tuning.
    """
    from genrec_kernels.triton.paged_bias import paged_bias
    from genrec_kernels.triton.paged_hstu_attention import add_parts

    num_rows, num_heads, width = q.shape
    num_requests = row_offsets.shape[0] - 1
    if kernel is None:
        variant = paged_variant_of(
            ELEMENTS[q.dtype],
            width,
            bias=bias is not None,
            same_bias=same_bias,
            max_new_rows=max_new_rows,
        )
        kernel = compiled_kernels()[variant.name]
    variant = kernel.variant
    plan = _plan(variant, q, num_requests, max_new_rows, max_keys)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partial = out
    if plan.splits > 1:
        sizes = (plan.splits * num_rows * num_heads, width)
        partial = torch.empty(sizes, dtype=torch.float32, device=q.device)
    page_table, row_offsets = page_table.int(), row_offsets.int().contiguous()
    with on_device_of(q):
        made = None
        if bias is not None:
            made = paged_bias(
                bias,
                timestamp_pages=timestamp_pages,
                page_table=page_table,
                row_offsets=row_offsets,
                key_limits=key_limits,
                timestamps=timestamps,
                max_keys=max_keys,
                same_bias=variant.same_bias,
                scale=1 / alpha,
            )
        parameters = paged_parameters(
            variant,
            q=for_tma(q),
            k=for_tma(k),
            v=for_tma(v),
            kv_pages=kv_pages,
            out=out,
            partial=partial,
            offsets=row_offsets,
            key_limits=key_limits,
            page_table=page_table,
            claimed=claim_counter(q.device),
            bias=made,
            group=plan.group,
            splits=plan.splits,
            half_alpha=alpha / 2,
            inverse_norm=1 / norm_length,
        )
        launch(kernel, parameters, blocks=plan.blocks, device=q.device)
        if plan.splits > 1:
            add_parts(partial, out, plan.splits)
    return out
