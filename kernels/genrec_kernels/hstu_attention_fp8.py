"""HSTU attention in eight bits over jagged rows: the public op. It has no gradient.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.cutlass.hstu_attention_fp8 import unsupported
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.fp8_layout import Fp8Rows, Fp8Scales
from genrec_kernels.fp8_rows import head_scales, to_fp8
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.reference.hstu_attention_fp8 import (
    hstu_attention_fp8 as hstu_attention_fp8_reference,
)


def hstu_attention_fp8(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rows: JaggedRows,
    key_limits: Tensor,
    alpha: float,
    norm_length: int,
    scales: Fp8Scales | None = None,
    max_rows: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """`hstu_attention` without bias and window, its products in eight bits (e4m3).

    q, k, v and the weights are rounded, which is an error of some 5 % of the output for numbers
    from a normal distribution; sums are float32.

    Args:
        q, k, v: bfloat16, float16 or float32 [R, H, D] (any stride of rows and heads).
        rows: layout of the R rows: history rows of a sequence, then its candidates.
        key_limits: int64 [R], at most the history rows that come before the row.
        alpha: scale of q·kᵀ.
        norm_length: N, the same for every sequence.
        scales: of each head; None for `fp8_rows.head_scales` of these rows.
        max_rows: at least the rows of the longest sequence; else as for `hstu_attention`.
        backend: forces one. `cutlass` needs a Hopper GPU; elsewhere `reference` rounds the same
            numbers, and is slow.

    Returns:
        bfloat16 [R, H, D].

    Raises:
        ValueError: shapes do not fit together, or a gradient is asked for.
        BackendUnavailable: the forced backend cannot run on these inputs.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        raise ValueError("hstu_attention_fp8 has no gradient: call it under torch.no_grad()")
    # The choice comes first: rows are rounded for nothing where the forced backend cannot run.
    chosen = _chosen(q, backend)
    rounding: Backend | None = "reference" if chosen == "reference" else None
    if scales is None and q.shape[0]:
        scales = head_scales(q, k, v, alpha=alpha)
    operands = to_fp8(q, k, v, rows=rows, scales=scales, backend=rounding)
    return attention_of_fp8_rows(
        operands,
        rows=rows,
        key_limits=key_limits,
        alpha=alpha,
        norm_length=norm_length,
        max_rows=max_rows,
        backend=chosen,
    )


def attention_of_fp8_rows(
    operands: Fp8Rows,
    *,
    rows: JaggedRows,
    key_limits: Tensor,
    alpha: float,
    norm_length: int,
    max_rows: int | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """`hstu_attention_fp8` of rows that were rounded before, by `fp8_rows.to_fp8`."""
    q = operands.q
    if key_limits.shape != q.shape[:1]:
        raise ValueError(f"key_limits must be [R] with R = {q.shape[0]}: {tuple(key_limits.shape)}")
    if norm_length < 1:
        raise ValueError(f"norm_length ({norm_length}) must be positive")
    if _chosen(q, backend) == "reference":
        return hstu_attention_fp8_reference(
            operands, rows=rows, key_limits=key_limits, alpha=alpha, norm_length=norm_length
        )
    from genrec_kernels.cutlass import hstu_attention_fp8 as compiled

    return compiled.forward(
        operands,
        offsets=rows.offsets,
        histories=rows.history_lengths,
        key_limits=key_limits,
        max_rows=rows.max_history + rows.max_candidates if max_rows is None else max_rows,
        alpha=alpha,
        norm_length=norm_length,
    )


def _chosen(q: Tensor, forced: Backend | None) -> Backend:
    problem = unsupported(q)
    offered: tuple[Backend, ...] = ("cutlass", "reference") if problem is None else ("reference",)
    lacking: dict[Backend, str] = {} if problem is None else {"cutlass": problem}
    return choose_backend("hstu_attention_fp8", q.device, offered, forced=forced, lacking=lacking)
