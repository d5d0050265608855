"""Launches the CUTLASS kernels of paged attention.

Letters in shapes: R new rows, B requests, P pages, S rows a page, H heads, D width of a head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.block_sizes import MOST_SEQUENCES
from genrec_kernels.cutlass.claims import claim_counter
from genrec_kernels.cutlass.hstu_attention import L2_BYTES, for_tma, multiprocessors
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels, launch
from genrec_kernels.cutlass.parameters import Fp8Parameters, paged_parameters
from genrec_kernels.cutlass.variants import (
    ELEMENTS,
    PAGE_KEYS,
    SMALL_PAGE_KEYS,
    WIDTHS,
    AttentionVariant,
    paged_variant_of,
)
from genrec_kernels.paged_bias import matrix_bytes
from genrec_kernels.paged_sizes import PagedSizes
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.paged_plan import MOST_SPLITS, SHORTEST_SPLIT

#: Most memory that a layer's bias matrix may take: 8,192 rows on 20,480 keys.
MOST_BIAS_BYTES = 640 * 2**20
#: New rows of a request for which Triton's tiles of 16 to 64 rows are better, measured on an H200:
#: where rows have a bias of their own, and else.
_FEW_ROWS = {True: 32, False: 64}
#: Elements of an output that one program adds the parts of, and parts that it can add.
_SUM_BLOCK = 64


def unsupported(sizes: PagedSizes, *, fp8_pages: bool = False) -> str | None:
    """Why no compiled kernel takes a call of these sizes, whatever the GPU; None if one does.

    Args:
        sizes: of the call.
        fp8_pages: whether its pages are float8.
    """
    if sizes.dtype not in ELEMENTS or sizes.head_dim not in WIDTHS:
        return (
            "its kernels take bfloat16 and float16, and heads of "
            f"{', '.join(map(str, WIDTHS))}, not {sizes.dtype} of {sizes.head_dim}"
        )
    if fp8_pages and (sizes.dtype != torch.bfloat16 or sizes.page_size % PAGE_KEYS):
        return (
            f"its kernels take float8 pages of a multiple of {PAGE_KEYS} rows with queries in "
            f"bfloat16, not of {sizes.page_size} with {sizes.dtype}"
        )
    if sizes.page_size % SMALL_PAGE_KEYS:
        return (
            f"its kernels take pages of a multiple of {SMALL_PAGE_KEYS} rows, "
            f"not of {sizes.page_size}"
        )
    variant = _variant_of(sizes, fp8_pages=fp8_pages)
    if compiled_kernels() and variant.name not in compiled_kernels():
        return f"{variant.name} was not compiled (make kernels)"
    needed = matrix_bytes(sizes, _bias_dtype(fp8_pages)) if sizes.has_bias else 0
    if needed > MOST_BIAS_BYTES:
        return (
            f"the bias of {sizes.num_rows} rows on up to {sizes.max_keys} keys would take "
            f"{needed >> 20} MiB, more than {MOST_BIAS_BYTES >> 20}"
        )
    return None


def pays(sizes: PagedSizes, device: torch.device, *, fp8_pages: bool = False) -> bool:
    """Whether a call of these sizes is faster than in Triton, as measured on an H200.

    Triton's smaller tiles are better for few rows, and where few rows in all have to be split into
    many parts. But Triton finds the bias of rows that each have their own once for every head, and
    has to make numbers of 16 bits of float8 pages.
    """
    if sizes.max_new_rows <= _FEW_ROWS[sizes.own_bias]:
        return fp8_pages and not sizes.own_bias
    if sizes.own_bias or fp8_pages:
        return True
    variant = _variant_of(sizes)
    blocks = sizes.tiles(variant.rows) * sizes.num_heads
    return 8 * blocks > multiprocessors(device) * variant.resident


def _bias_dtype(fp8_pages: bool) -> torch.dtype:
    """That of the scores which it is added to."""
    return torch.float16 if fp8_pages else torch.float32


def _variant_of(sizes: PagedSizes, *, fp8_pages: bool = False) -> AttentionVariant:
    return paged_variant_of(
        "fp8" if fp8_pages else ELEMENTS[sizes.dtype],
        sizes.head_dim,
        bias=sizes.has_bias,
        same_bias=sizes.same_bias,
        page_size=sizes.page_size,
    )


class _Plan(NamedTuple):
    """How a call is cut up.

    blocks: of the grid.
    splits: parts that the keys are cut into.
    group: requests that run side by side.
    """

    blocks: int
    splits: int
    group: int


def _plan(variant: AttentionVariant, sizes: PagedSizes, device: torch.device) -> _Plan:
    parts = sizes.tiles(variant.rows) * sizes.num_heads
    slots = multiprocessors(device) * variant.resident
    # As many as run at once: to write and add parts costs more than multiprocessors that idle.
    most = max(1, min(MOST_SPLITS, sizes.max_keys // SHORTEST_SPLIT))
    splits = min(most, max(1, slots // max(parts, 1)))
    group = min(sizes.num_requests, MOST_SEQUENCES)
    if sizes.max_new_rows > variant.rows:
        # A request's keys are read again for other rows: from the L2 cache, if they are there.
        element = torch.finfo(sizes.dtype).bits // 8
        request = sizes.max_keys * sizes.num_heads * 2 * sizes.head_dim * element
        group = min(group, max(L2_BYTES // max(request, 1), 1))
    return _Plan(min(slots, parts * splits), splits, group)


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
    qk_scale: float | None,
    queries: Tensor | None = None,
    sizes: PagedSizes,
    in_parts: bool = False,
    kernel: CompiledKernel[AttentionVariant] | None = None,
) -> Tensor:
    """As `genrec_kernels.paged_hstu_attention`, for sizes that are not `unsupported`.

    Args:
        kv_scales, qk_scale: of float8 pages both are given.
        queries: `q` in float8, or None to have it rounded by a kernel before.
        sizes: of this call.
        kernel: instead of the one for these inputs, for tuning.
    """
    from genrec_kernels.triton.fp8_pages import narrow_queries
    from genrec_kernels.triton.paged_bias import paged_bias
    from genrec_kernels.triton.paged_hstu_attention import add_parts

    num_rows, num_heads, width = q.shape
    fp8_pages = kv_scales is not None
    kernel = kernel or compiled_kernels()[_variant_of(sizes, fp8_pages=fp8_pages).name]
    variant = kernel.variant
    plan = _plan(variant, sizes, q.device)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partial = out
    if plan.splits > 1:
        parts = (plan.splits * num_rows * num_heads, width)
        partial = torch.empty(parts, dtype=torch.float32, device=q.device)
    page_table, row_offsets = page_table.int(), row_offsets.int().contiguous()
    with on_device_of(q):
        # What a score is times before SiLU; the bias is added to the sum of a product.
        scale, fp8 = alpha, None
        if kv_scales is not None and qk_scale is not None:
            scale = alpha * qk_scale
            if queries is None:
                queries = narrow_queries(contiguous_rows(q), kv_scales[0], qk_scale)
            fp8 = Fp8Parameters(for_tma(queries), kv_scales[1], 1 / qk_scale)
        made = None
        if bias is not None:
            made = paged_bias(
                bias,
                timestamp_pages=timestamp_pages,
                page_table=page_table,
                row_offsets=row_offsets,
                key_limits=key_limits,
                timestamps=timestamps,
                max_keys=sizes.max_keys,
                same_bias=variant.same_bias,
                scale=1 / scale,
                dtype=_bias_dtype(fp8_pages),
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
            fp8=fp8,
            group=plan.group,
            splits=plan.splits,
            half_alpha=scale / 2,
            inverse_norm=1 / norm_length,
        )
        launch(kernel, parameters, blocks=plan.blocks, device=q.device)
        if in_parts:
            return partial.view(plan.splits, *q.shape)
        if plan.splits > 1:
            add_parts(partial, out, plan.splits, block=_SUM_BLOCK, most=MOST_SPLITS)
    return out
