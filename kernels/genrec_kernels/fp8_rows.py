"""Rows in eight bits (e4m3) with a scale for each head: what attention in eight bits reads.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.current_device import on_device_of
from genrec_kernels.dispatch import Backend, choose_backend, interpreting
from genrec_kernels.fp8_layout import (
    LARGEST,
    LEAST_PRODUCT,
    LEAST_SCALE,
    Fp8Rows,
    Fp8Scales,
    largest_factor,
)
from genrec_kernels.jagged import JaggedRows, offsets_of
from genrec_kernels.reference.fp8_rows import to_fp8 as to_fp8_reference


def head_scales(q: Tensor, k: Tensor, v: Tensor, *, alpha: float | None = None) -> Fp8Scales:
    """Scales by which each head's greatest number is the greatest that may be; nothing waits.

    Of v it is that of e4m3, of q and k `fp8_layout.largest_factor`: e4m3 has as many digits there.
    Where `alpha` times both scales would be so small that half precision has few digits of it, as
    attention multiplies scores by it, these are larger, and numbers smaller.

    A number that is not finite makes all of its head not finite, other sequences' rows too. Scales
    that were found before, on other rows, do not: what lies beyond them is rounded to the greatest.

    Args:
        q, k, v: float [R, H, D], R at least 1.
        alpha: of the attention, if known.
    """
    factor = largest_factor(q.shape[2])
    q_scale, k_scale, v_scale = (
        (torch.linalg.vector_norm(x, torch.inf, dim=(0, 2), dtype=torch.float32) / most).clamp(
            min=LEAST_SCALE
        )
        for x, most in ((q, factor), (k, factor), (v, LARGEST))
    )
    if alpha is not None:
        # A sixteenth of the greatest is as exact: e4m3's least normal number is far below.
        wanted = (LEAST_PRODUCT / alpha) ** 0.5
        q_scale, k_scale = (
            torch.maximum(x, (16 * x).clamp(max=wanted)) for x in (q_scale, k_scale)
        )
    return Fp8Scales(q_scale, k_scale, v_scale)


def to_fp8(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rows: JaggedRows,
    scales: Fp8Scales | None = None,
    backend: Backend | None = None,
) -> Fp8Rows:
    """Round q, k and v to e4m3, and lay them out as attention in eight bits reads them.

    Args:
        q, k, v: float [R, H, D], any stride of rows and heads.
        rows: layout of the R rows.
        scales: of each head; None for `head_scales` of these rows. What lies beyond what
            `head_scales` reaches is cut.
        backend: force one of `triton`, `reference`.

    Raises:
        ValueError: shapes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    if q.dim() != 3 or not q.shape == k.shape == v.shape:
        raise ValueError(
            "q, k and v must be [R, H, D] of one shape: "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if scales is None:
        # Of no rows there is no greatest number.
        ones = torch.ones(q.shape[1], device=q.device)
        scales = head_scales(q, k, v) if q.shape[0] else Fp8Scales(ones, ones, ones)
    if any(scale.shape != q.shape[1:2] or scale.dtype != torch.float32 for scale in scales):
        raise ValueError(f"scales must be float32 [H], H = {q.shape[1]}: {scales}")
    offered: tuple[Backend, ...] = ("triton", "reference")
    lacking: dict[Backend, str] = {}
    if not _has_conversions(q.device):
        offered = ("reference",)
        lacking["triton"] = "it rounds to e4m3 on compute capability 8.9 (L40, H100) or later"
    chosen = choose_backend(
        "to_fp8",
        q.device,
        offered,
        forced=backend,
        lacking=lacking,
        instead={"cutlass": None},  # it has the attention alone
    )
    offsets = offsets_of(rows)
    if chosen == "reference":
        return to_fp8_reference(q, k, v, offsets=offsets, scales=scales)
    from genrec_kernels.triton import fp8_rows as kernels

    with on_device_of(q):
        return kernels.to_fp8(
            *(contiguous_rows(x) for x in (q, k, v)), offsets=offsets.contiguous(), scales=scales
        )


def _has_conversions(device: torch.device) -> bool:
    """Whether Triton can round to e4m3 there."""
    if device.type != "cuda":
        return interpreting()
    return torch.cuda.get_device_capability(device) >= (8, 9)
