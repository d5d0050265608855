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
    backend: Backend | None = None,
) -> None:
    """Put keys, values and times of rows where their slots say.

    All writes of a step must come before the first read: a request may share pages with one that
    fills them in this very step. So this is a kernel of its own, never fused with attention.

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
        backend: force one of `triton`, `reference`.

    Raises:
        ValueError: shapes or dtypes do not fit together, or only one of the two timestamp tensors
            is given.
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
    torch.ops.genrec.page_write(
        k, v, slots, kv_pages, timestamps, timestamp_pages, kv_scales, backend
    )


@torch.library.custom_op("genrec::page_write", mutates_args=("kv_pages", "timestamp_pages"))
def _page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    kv_pages: Tensor,
    timestamps: Tensor | None,
    timestamp_pages: Tensor | None,
    kv_scales: Tensor | None,
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
        page_write_reference(
            k, v, slots, kv_pages=kv_pages, timestamps=timestamps,
            timestamp_pages=timestamp_pages, kv_scales=kv_scales,
        )  # fmt: skip
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

            kernels_of_fp8.page_write(**rows, kv_scales=kv_scales.contiguous())


@_page_write.register_fake
def _fake(*_: object) -> None:
    return None
