"""Keys, values and times of new rows into a paged cache: one kernel, before attention reads them.

Letters in shapes: R rows, P pages, S rows a page, H heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.current_device import on_device_of
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.fp8_pages import FP8, LACKS_FP8, check_scales, knows_fp8
from genrec_kernels.reference.page_write import page_write as page_write_reference


def page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    *,
    kv_pages: Tensor,
    timestamps: Tensor | None = None,
    timestamp_pages: Tensor | None = None,
    kv_scales: Tensor | None = None,
    q: Tensor | None = None,
    qk_scale: float | None = None,
    backend: Backend | None = None,
) -> Tensor | None:
    """Put keys, values and times of rows where their slots say.

    All writes of a step must come before the first read: a request may share pages with one that
    fills them in this very step. So this is a kernel of its own, never fused with attention. But
    what attention in eight bits makes of queries first is done here, too, if wanted: alone it takes
    hardly longer than a launch.

    Args:
        k, v: float [R, H, D], any strides.
        slots: int64 [R], ``page · S + row in page``, each at most once; a negative one (vLLM's
            padding) is skipped.
        kv_pages: float [P, H, S, 2·D], written: keys in the first half of the last axis. Any
            strides. Float8 (e4m3) with `kv_scales`, laid out as `fp8_pages` says: what is too large
            for it is cut.
        timestamps: int64 [R], unix seconds, or None to leave `timestamp_pages` alone (one layer
            of a model writes the times, all share them).
        timestamp_pages: int64 [P, S], written; given with `timestamps`.
        kv_scales: float32 [2, H], by which keys and values of a head are divided before they are
            rounded to float8 (see `fp8_pages`); None for other pages.
        q: float [R, H, D], any strides: queries of all rows, with a slot or without, to be rounded
            to float8 for attention that `takes_queries`; None for no queries. With float8 pages.
        qk_scale: with `q`, what products of its float8 numbers and keys are times, as
            `paged_hstu_attention` has it.
        backend: force one of `triton`, `reference`.

    Returns:
        With `q`, float8 [R, H, D], contiguous: ``q · kv_scales[0] / qk_scale``, cut to
        `fp8_layout.largest_factor`; else None.

    Raises:
        ValueError: shapes or dtypes do not fit together, or only one of the two timestamp tensors
            or of `q` and `qk_scale` is given.
        BackendUnavailable: the forced backend cannot run.
    """
    if k.dim() != 3 or v.shape != k.shape or slots.shape != k.shape[:1]:
        raise ValueError(
            "k and v must be [R, H, D] and slots [R], not "
            f"{list(k.shape)}, {list(v.shape)}, {list(slots.shape)}"
        )
    if kv_pages.dim() != 4 or kv_pages.shape[1::2] != (k.shape[1], 2 * k.shape[2]):
        raise ValueError(
            f"kv_pages must be [P, {k.shape[1]}, S, {2 * k.shape[2]}], not {list(kv_pages.shape)}"
        )
    if (timestamps is None) != (timestamp_pages is None):
        raise ValueError("timestamps and timestamp_pages come together")
    check_scales(kv_pages, kv_scales)
    if (q is None) != (qk_scale is None):
        raise ValueError("q and qk_scale come together")
    queries = None
    if q is not None:
        if kv_scales is None or q.shape != k.shape:
            raise ValueError(
                f"q comes with pages of {FP8} and must be {list(k.shape)} as k is: pages are "
                f"{kv_pages.dtype}, q {list(q.shape)}"
            )
        queries = torch.empty(q.shape, dtype=FP8, device=q.device)
    torch.ops.genrec.page_write(
        k, v, slots, kv_pages, timestamps, timestamp_pages, kv_scales, q, queries, qk_scale, backend
    )
    return queries


@torch.library.custom_op(
    "genrec::page_write", mutates_args=("kv_pages", "timestamp_pages", "queries")
)
def _page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    kv_pages: Tensor,
    timestamps: Tensor | None,
    timestamp_pages: Tensor | None,
    kv_scales: Tensor | None,
    q: Tensor | None,
    queries: Tensor | None,
    qk_scale: float | None,
    backend: str | None,
) -> None:
    offered: tuple[Backend, ...] = ("reference",)
    lacking: dict[Backend, str] = {}
    if kv_pages.dtype == FP8 and not knows_fp8(k.device):
        lacking["triton"] = LACKS_FP8
    elif kv_pages.stride(3) == 1:
        offered = ("triton", "reference")
    chosen = choose_backend("page_write", k.device, offered, forced=backend, lacking=lacking)
    if chosen == "reference":
        rounded = page_write_reference(
            k, v, slots, kv_pages=kv_pages, timestamps=timestamps,
            timestamp_pages=timestamp_pages, kv_scales=kv_scales, q=q, qk_scale=qk_scale,
        )  # fmt: skip
        if queries is not None and rounded is not None:
            queries.copy_(rounded)
        return
    rows: dict[str, Any] = {
        "k": contiguous_rows(k),
        "v": contiguous_rows(v),
        "slots": slots.contiguous(),
        "kv_pages": kv_pages,
        "timestamps": None if timestamps is None else timestamps.contiguous(),
        "timestamp_pages": timestamp_pages,
    }
    with on_device_of(k):
        if kv_scales is None:
            from genrec_kernels.triton import page_write as kernels

            kernels.page_write(**rows)
        else:
            from genrec_kernels.triton import fp8_pages as kernels_of_fp8

            kernels_of_fp8.page_write(
                **rows, kv_scales=kv_scales.contiguous(),
                q=None if q is None else contiguous_rows(q), queries=queries, qk_scale=qk_scale,
            )  # fmt: skip


@_page_write.register_fake
def _fake(*_: object) -> None:
    return None
