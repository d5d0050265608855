"""HSTU attention of new rows over a paged history: the op that a server calls.

Letters in shapes: R new rows of all requests, B requests, P pages of the cache, S rows a page,
M pages of the longest request, H heads, D head width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypedDict

import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.hstu_attention import reads_by_tma
from genrec_kernels.cutlass.paged_hstu_attention import pays, unsupported
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.fp8_pages import FP8, LACKS_FP8, check_qk_scale, check_scales, knows_fp8
from genrec_kernels.paged_sizes import PagedSizes
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.paged_plan import make_plan

#: What the kernels take; anything else runs in the reference.
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MAX_HEAD_DIM = 256


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
    qk_scale: float | None = None,
    queries: Tensor | None = None,
    max_new_rows: int | None = None,
    max_keys: int | None = None,
    same_bias: bool = False,
    in_parts: bool = False,
    backend: Backend | None = None,
) -> Tensor:
    """``SiLU(q·kᵀ·alpha + rab) / N · v`` over the rows of a request's pages, and the row itself.

    Each new row sees the first `key_limits` rows of its request in the pages, and itself; its own
    key and value are `k` and `v`. So history rows and candidate rows are one and the same case,
    and nothing here is written: a history row's page may or may not hold it already.

    No length is read on the host, so the call can be captured in a CUDA graph and replayed for
    other lengths within `max_new_rows` and `max_keys`. It has no gradient.

    Args:
        q, k, v: bfloat16, float16 or float32 [R, H, D], rows of each request together.
        kv_pages: float [P, H, S, 2·D], keys in the first half of the last axis; any strides of
            the other axes. Of the dtype of `q`, or float8 (e4m3) with `kv_scales`, laid out as
            `fp8_pages` says.
        timestamp_pages: int64 [P, S], any strides.
        page_table: int32 or int64 [B, M], pages of each request in order; entries past its
            history are never read.
        row_offsets: int32 or int64 [B + 1], first new row of each request. Rows past the last
            offset come out undefined.
        key_limits: int64 [R], at most M·S.
        timestamps: int64 [R], unix seconds.
        alpha: scale of q·kᵀ.
        norm_length: N, the same for every request.
        bias: position and time bias, or None.
        kv_scales: float32 [2, H], what keys and values of a head in float8 pages are times (see
            `fp8_pages`); None for other pages.
        qk_scale: with float8 pages, what products of their queries and keys may be times: queries,
            divided by it over the scale of the head's keys, and weights are then rounded to
            float8, too, by CUTLASS, which does not take such pages without, and by the reference.
            Scores are summed in half precision then: take it from `fp8_pages.qk_scale_for`. What
            lies beyond (queries, and a bias of more than `fp8_layout.LARGEST_BIAS` times it and
            alpha) is cut.
        queries: float8 [R, H, D], contiguous: what `page_write` made of `q` with this `qk_scale`
            and these `kv_scales`, so that no kernel has to be launched for it here; or None. Only
            CUTLASS reads it, where `takes_queries`; the others go by `q`, which has to come anyway.
        max_new_rows: an upper bound of the new rows of one request, if known: a smaller grid.
        max_keys: an upper bound of `key_limits`, if known: better splits, and less memory for a
            bias. Neither changes what is computed as long as they are bounds.
        same_bias: all new rows of a request have one key limit and one time, as candidates do.
            Where that is not true of a request, its rows may come out NaN.
        in_parts: leave what each part of the keys gave as it is, for an op that reads it anyway to
            add up (`fused_norm_gate.norm_gate_of_parts`).
        backend: force one of `cutlass`, `triton`, `reference`.

    Returns:
        float [R, H, D], in the dtype of `q`; `in_parts`, float [S, R, H, D] of which it is the sum
        over S: one in the dtype of `q`, or several in float32.

    Raises:
        ValueError: shapes or dtypes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    _check(q, k, v, kv_pages, timestamp_pages, page_table, row_offsets, key_limits, timestamps)
    check_scales(kv_pages, kv_scales)
    check_qk_scale(qk_scale, alpha)
    if queries is not None:
        _check_queries(queries, q, kv_scales, qk_scale)
    position, time, boundaries = (None, None, None) if bias is None else bias
    out: Tensor = torch.ops.genrec.paged_hstu_attention(
        q, k, v, kv_pages, timestamp_pages, page_table, row_offsets, key_limits, timestamps,
        position, time, boundaries, kv_scales, qk_scale, queries, alpha, norm_length,
        *_bounds(q, kv_pages, page_table, max_new_rows, max_keys), same_bias, in_parts, backend,
    )  # fmt: skip
    return out


def takes_queries(
    q: Tensor,
    *,
    kv_pages: Tensor,
    page_table: Tensor,
    row_offsets: Tensor,
    has_bias: bool,
    qk_scale: float | None,
    max_new_rows: int | None = None,
    max_keys: int | None = None,
    same_bias: bool = False,
    backend: Backend | None = None,
) -> bool:
    """Whether `paged_hstu_attention` reads `queries` when called so: `page_write` rounds them then.

    Args:
        q, kv_pages, page_table, row_offsets, qk_scale, max_new_rows, max_keys, same_bias, backend:
            of the call.
        has_bias: whether it has a bias.

    Raises:
        BackendUnavailable: the forced backend cannot run that call.
    """
    if qk_scale is None or kv_pages.dtype != FP8:
        return False
    bounds = _bounds(q, kv_pages, page_table, max_new_rows, max_keys)
    sizes = _sizes(q, kv_pages, row_offsets, *bounds, has_bias=has_bias, same_bias=same_bias)
    return _choose(sizes, q.device, kv_pages, qk_scale, forced=backend) == "cutlass"


@torch.library.custom_op("genrec::paged_hstu_attention", mutates_args=())
def _paged_hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_pages: Tensor,
    timestamp_pages: Tensor,
    page_table: Tensor,
    row_offsets: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    position: Tensor | None,
    time: Tensor | None,
    boundaries: Tensor | None,
    kv_scales: Tensor | None,
    qk_scale: float | None,
    queries: Tensor | None,
    alpha: float,
    norm_length: int,
    max_new_rows: int,
    max_keys: int,
    same_bias: bool,
    in_parts: bool,
    backend: str | None,
) -> Tensor:
    bias = None
    if position is not None and time is not None and boundaries is not None:
        bias = RelativeBias(position, time, boundaries)
    sizes = _sizes(
        q, kv_pages, row_offsets, max_new_rows, max_keys,
        has_bias=bias is not None, same_bias=same_bias,
    )  # fmt: skip
    chosen = _choose(sizes, q.device, kv_pages, qk_scale, forced=backend)
    if chosen == "reference":
        q_scales = None
        if kv_scales is not None and qk_scale is not None:
            q_scales = qk_scale / kv_scales[0]
        whole = reference.paged_hstu_attention(
            q, k, v, kv_pages=kv_pages, timestamp_pages=timestamp_pages, page_table=page_table,
            row_offsets=row_offsets, key_limits=key_limits, timestamps=timestamps, alpha=alpha,
            norm_length=norm_length, bias=bias, kv_scales=kv_scales,
            q_scales=q_scales,
        )  # fmt: skip
        return whole[None] if in_parts else whole
    if chosen == "cutlass":
        from genrec_kernels.cutlass import paged_hstu_attention as compiled

        return compiled.paged_hstu_attention(
            q, k, v, kv_pages=kv_pages, timestamp_pages=timestamp_pages,
            page_table=contiguous_rows(page_table), row_offsets=row_offsets,
            key_limits=key_limits.contiguous(), timestamps=timestamps.contiguous(), alpha=alpha,
            norm_length=norm_length, bias=bias,
            kv_scales=None if kv_scales is None else kv_scales.contiguous(),
            qk_scale=qk_scale, queries=queries, sizes=sizes, in_parts=in_parts,
        )  # fmt: skip
    from genrec_kernels.triton import paged_hstu_attention as kernels

    plan = make_plan(sizes, **_gpu(q.device))
    with on_device_of(q):
        return kernels.paged_hstu_attention(
            *(contiguous_rows(x) for x in (q, k, v)), kv_pages=kv_pages,
            timestamp_pages=timestamp_pages, page_table=contiguous_rows(page_table),
            row_offsets=row_offsets.contiguous(), key_limits=key_limits.contiguous(),
            timestamps=timestamps.contiguous(), alpha=alpha, norm_length=norm_length, bias=bias,
            kv_scales=None if kv_scales is None else kv_scales.contiguous(), plan=plan,
            in_parts=in_parts,
        )  # fmt: skip


@_paged_hstu_attention.register_fake
def _fake(q: Tensor, *others: object) -> Tensor:
    in_parts = others[-2]
    if in_parts:
        raise NotImplementedError("how many parts there are depends on the GPU: compile around it")
    return q.new_empty(q.shape)


def _bounds(
    q: Tensor,
    kv_pages: Tensor,
    page_table: Tensor,
    max_new_rows: int | None,
    max_keys: int | None,
) -> tuple[int, int]:
    """Of new rows and of keys of a request, no larger than the tensors allow."""
    num_rows, table_keys = q.shape[0], page_table.shape[1] * kv_pages.shape[2]
    return (
        num_rows if max_new_rows is None else min(max_new_rows, num_rows),
        table_keys if max_keys is None else min(max_keys, table_keys),
    )


def _sizes(
    q: Tensor,
    kv_pages: Tensor,
    row_offsets: Tensor,
    max_new_rows: int,
    max_keys: int,
    *,
    has_bias: bool,
    same_bias: bool,
) -> PagedSizes:
    return PagedSizes(
        num_rows=q.shape[0],
        num_requests=row_offsets.shape[0] - 1,
        num_heads=q.shape[1],
        head_dim=q.shape[2],
        page_size=kv_pages.shape[2],
        dtype=q.dtype,
        max_new_rows=max_new_rows,
        max_keys=max_keys,
        has_bias=has_bias,
        same_bias=same_bias,
    )


def _choose(
    sizes: PagedSizes,
    device: torch.device,
    kv_pages: Tensor,
    qk_scale: float | None,
    *,
    forced: str | None,
) -> Backend:
    """What runs a call; plain PyTorch has no trouble with one of no rows."""
    offered: tuple[Backend, ...] = ("reference",)
    lacking: dict[Backend, str] = {}
    known = sizes.dtype in DTYPES and kv_pages.dtype in (*DTYPES, FP8)
    fp8_pages = kv_pages.dtype == FP8
    if fp8_pages and not knows_fp8(device):
        known = False
        lacking = {"triton": LACKS_FP8, "cutlass": LACKS_FP8}
    if known and sizes.head_dim <= MAX_HEAD_DIM and kv_pages.stride(3) == 1:
        offered = ("triton", "reference")
        problem = unsupported(sizes, fp8_pages=fp8_pages)
        if fp8_pages and qk_scale is None:
            problem = "it multiplies float8 pages in eight bits, for which it wants a qk_scale"
        if not fp8_pages and (kv_pages.dtype != sizes.dtype or not reads_by_tma(kv_pages)):
            problem = (
                f"its kernels take pages of {sizes.dtype} with strides of multiples of 16 bytes, "
                f"or of float8, not of {kv_pages.dtype} with strides {kv_pages.stride()}"
            )
        if problem is not None:
            lacking["cutlass"] = problem
        elif device.type == "cuda" and pays(sizes, device, fp8_pages=fp8_pages):
            offered = ("cutlass", *offered)
        else:
            offered = ("triton", "cutlass", "reference")
    chosen = choose_backend("paged_hstu_attention", device, offered, forced=forced, lacking=lacking)
    return chosen if sizes.num_rows > 0 and sizes.num_requests > 0 else "reference"


class _Gpu(TypedDict):
    multiprocessors: int
    shared_memory: int
    tma: bool


@cache
def _gpu(device: torch.device) -> _Gpu:
    if device.type != "cuda":  # Triton's interpreter: any numbers give the right result
        return {"multiprocessors": 4, "shared_memory": 64 * 1024, "tma": False}
    properties: Any = torch.cuda.get_device_properties(device)
    return {
        "multiprocessors": properties.multi_processor_count,
        "shared_memory": properties.shared_memory_per_block_optin,
        "tma": properties.major >= 9,
    }


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_pages: Tensor,
    timestamp_pages: Tensor,
    page_table: Tensor,
    row_offsets: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
) -> None:
    if q.dim() != 3 or k.shape != q.shape or v.shape != q.shape:
        raise ValueError(f"q, k and v must be [R, H, D] alike, not {_shapes(q, k, v)}")
    if kv_pages.dim() != 4 or kv_pages.shape[1] != q.shape[1]:
        raise ValueError(f"kv_pages must be [P, {q.shape[1]}, S, 2·D], not {_shapes(kv_pages)}")
    if kv_pages.shape[3] != 2 * q.shape[2]:
        raise ValueError(
            f"kv_pages must have rows of 2·{q.shape[2]} (key, value), not {kv_pages.shape[3]}"
        )
    if timestamp_pages.shape != (kv_pages.shape[0], kv_pages.shape[2]):
        raise ValueError(
            f"timestamp_pages must be [{kv_pages.shape[0]}, {kv_pages.shape[2]}] as kv_pages is, "
            f"not {_shapes(timestamp_pages)}"
        )
    if page_table.dim() != 2 or row_offsets.shape != (page_table.shape[0] + 1,):
        raise ValueError(
            "page_table must be [B, M] and row_offsets [B + 1], not "
            f"{_shapes(page_table, row_offsets)}"
        )
    if key_limits.shape != q.shape[:1] or timestamps.shape != q.shape[:1]:
        raise ValueError(
            f"key_limits and timestamps must be [{q.shape[0]}], not "
            f"{_shapes(key_limits, timestamps)}"
        )
    if timestamp_pages.dtype != torch.int64 or timestamps.dtype != torch.int64:
        raise ValueError("timestamps and timestamp_pages must be int64")


def _check_queries(
    queries: Tensor, q: Tensor, kv_scales: Tensor | None, qk_scale: float | None
) -> None:
    if kv_scales is None or qk_scale is None:
        raise ValueError("queries come with kv_scales and qk_scale, by which they were rounded")
    if queries.shape != q.shape or queries.dtype != FP8 or not queries.is_contiguous():
        raise ValueError(
            f"queries must be {FP8} {list(q.shape)}, contiguous, not {queries.dtype} "
            f"{list(queries.shape)} with strides {queries.stride()}"
        )


def _shapes(*tensors: Tensor) -> str:
    return ", ".join(str(list(x.shape)) for x in tensors)
