"""HSTU attention over jagged rows: the public op, with its gradient.

Letters in shapes: R rows of all sequences, B sequences, H heads, Dk and Dv widths of a head,
P and C entries of the position and time tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.cutlass.hstu_attention import unsupported
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.jagged import JaggedRows, offsets_of
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.time_plan import MAX_TRITON_BUCKETS, TimePlan, plan_times

if TYPE_CHECKING:
    from genrec_kernels.triton.hstu_attention import AttentionArguments

_MAX_TRITON_WIDTH = 256
_TRITON_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    rows: JaggedRows,
    key_limits: Tensor,
    timestamps: Tensor,
    alpha: float,
    norm_length: int,
    bias: RelativeBias | None = None,
    window: int | None = None,
    max_rows: int | None = None,
    time_plan: TimePlan | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """``SiLU(q·kᵀ·alpha + rab) / N ⊙ mask · v`` (arXiv 2402.17152, equation 3).

    A row sees the first `key_limits` history rows of its sequence, and itself. Candidates never
    see each other. Differentiable by q, k, v and both bias tables.

    Args:
        q, k: bfloat16, float16 or float32 [R, H, Dk] (any stride of rows and heads); the
            reference takes float64 too.
        v: the same dtype, [R, H, Dv].
        rows: layout of the R rows: history rows of a sequence, then its candidates.
        key_limits: int64 [R], at most the history rows that come before the row.
        timestamps: int64 [R], unix seconds. Rows of one sequence must lie within 34 years
            (2^30 seconds) of each other, for the Triton kernels' time differences to be exact.
        alpha: scale of q·kᵀ.
        norm_length: N, the same for every sequence, so that no score depends on its batch-mates.
        bias: position and time bias, or None.
        window: a row sees only the last `window` of its `key_limits` rows; None for all of them.
        max_rows: at least the rows of the longest sequence. Without it they are read from
            `rows`, which waits for the GPU once a batch and cannot be captured in a graph.
        time_plan: from `plan_times`, so that the layers of a model share one; else it is made here.
        backend: forces one; see `genrec_kernels.dispatch`. `cutlass` needs a Hopper GPU and
            has no gradient of its own: Triton's is taken.

    Returns:
        [R, H, Dv] in the dtype of v.

    Raises:
        ValueError: shapes or dtypes do not fit together.
        BackendUnavailable: the forced backend cannot run on these inputs.
    """
    _check(q, k, v, key_limits, timestamps, norm_length, window)
    if max_rows is None and not torch.compiler.is_compiling():
        max_rows = rows.max_history + rows.max_candidates
    if max_rows is None:
        raise ValueError("max_rows must be given where hstu_attention is compiled or exported")
    if not torch.compiler.is_compiling():
        chosen = _chosen(q, v, bias, max_rows, backend)
        if chosen == "reference":  # its own autograd keeps what the gradient needs
            return reference.hstu_attention(
                q,
                k,
                v,
                rows=rows,
                key_limits=key_limits,
                timestamps=timestamps,
                alpha=alpha,
                norm_length=norm_length,
                bias=bias,
                window=window,
            )
        backend = chosen
    if bias is not None and time_plan is None:
        time_plan = plan_times(
            timestamps, rows=rows, boundaries=bias.boundaries, max_rows=max_rows, backend=backend
        )
    tables = (None, None, None) if bias is None else tuple(bias)
    plan = (None, None) if bias is None or time_plan is None else tuple(time_plan)
    out: Tensor = _hstu_attention(
        *(q, k, v, offsets_of(rows), rows.history_lengths, key_limits, timestamps, *tables, *plan),
        max_rows,
        alpha,
        norm_length,
        window,
        backend,
    )
    return out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    norm_length: int,
    window: int | None,
) -> None:
    if q.dim() != 3 or q.shape != k.shape or v.dim() != 3 or v.shape[:2] != q.shape[:2]:
        raise ValueError(
            "q and k must be [R, H, Dk] and v [R, H, Dv]: "
            f"{tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v differ in dtype: {q.dtype}, {k.dtype}, {v.dtype}")
    if key_limits.shape != q.shape[:1] or timestamps.shape != q.shape[:1]:
        raise ValueError(
            f"key_limits and timestamps must be [R] with R = {q.shape[0]}: "
            f"{tuple(key_limits.shape)}, {tuple(timestamps.shape)}"
        )
    if norm_length < 1 or (window is not None and window < 1):
        raise ValueError(f"norm_length ({norm_length}) and window ({window}) must be positive")


def _chosen(
    q: Tensor, v: Tensor, bias: RelativeBias | None, max_rows: int, forced: str | None
) -> Backend:
    """The backend of a forward."""
    problem = unsupported(q, v, bias=bias, max_rows=max_rows)
    offered = _with_gradient(q, v, bias)
    lacking: dict[Backend, str] = {}
    if problem is not None:
        lacking["cutlass"] = problem
    else:
        offered = ("cutlass", *offered)
    return choose_backend("hstu_attention", q.device, offered, forced=forced, lacking=lacking)


def _with_gradient(q: Tensor, v: Tensor, bias: RelativeBias | None) -> tuple[Backend, ...]:
    """Backends that have a backward for these inputs."""
    narrow = max(q.shape[2], v.shape[2]) <= _MAX_TRITON_WIDTH
    few_buckets = bias is None or bias.time.shape[0] <= MAX_TRITON_BUCKETS
    if q.dtype in _TRITON_DTYPES and narrow and few_buckets:
        return ("triton", "reference")
    return ("reference",)


@torch.library.custom_op("genrec::hstu_attention", mutates_args=())
def _hstu_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    history_lengths: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    position: Tensor | None,
    time: Tensor | None,
    boundaries: Tensor | None,
    seconds: Tensor | None,
    buckets: Tensor | None,
    max_rows: int,
    alpha: float,
    norm_length: int,
    window: int | None,
    backend: str | None,
) -> Tensor:
    """`hstu_attention` as an operator: opaque to compilers, [R, H, Dv]."""
    bias = _bias(position, time, boundaries)
    chosen = _chosen(q, v, bias, max_rows, backend)
    if chosen == "cutlass":
        from genrec_kernels.cutlass import hstu_attention as compiled

        return compiled.forward(
            q=q,
            k=k,
            v=v,
            offsets=offsets,
            histories=history_lengths,
            key_limits=key_limits,
            max_rows=max_rows,
            alpha=alpha,
            norm_length=norm_length,
            window=window,
            bias=bias,
            times=None if seconds is None or buckets is None else TimePlan(seconds, buckets),
        )
    if chosen == "triton":
        from genrec_kernels.triton import hstu_attention as kernels

        return kernels.forward(
            _kernel_arguments(
                *(q, k, v, offsets, history_lengths, key_limits, bias, seconds, buckets),
                *(max_rows, alpha, norm_length, window),
            )
        )
    return reference.hstu_attention(
        q,
        k,
        v,
        rows=JaggedRows(history_lengths, offsets.diff() - history_lengths),
        key_limits=key_limits,
        timestamps=timestamps,
        alpha=alpha,
        norm_length=norm_length,
        bias=bias,
        window=window,
    ).contiguous()


@_hstu_attention.register_fake
def _(*inputs: Any) -> Tensor:
    v: Tensor = inputs[2]
    return v.new_empty(v.shape)


@torch.library.custom_op("genrec::hstu_attention_backward", mutates_args=())
def _hstu_attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    history_lengths: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    position: Tensor | None,
    time: Tensor | None,
    boundaries: Tensor | None,
    seconds: Tensor | None,
    buckets: Tensor | None,
    max_rows: int,
    alpha: float,
    norm_length: int,
    window: int | None,
    backend: str | None,
    bias_gradients: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients by q, k, v and the tables; those not asked for are empty."""
    bias = _bias(position, time, boundaries)
    chosen = choose_backend(
        "hstu_attention_backward",
        q.device,
        _with_gradient(q, v, bias),
        forced=backend,
        instead={"cutlass": None},  # it has the forward alone
    )
    if chosen == "triton":
        from genrec_kernels.triton import hstu_attention as kernels

        gradients = kernels.backward(
            _kernel_arguments(
                *(q, k, v, offsets, history_lengths, key_limits, bias, seconds, buckets),
                *(max_rows, alpha, norm_length, window),
            ),
            grad_out,
            bias_gradients=bias_gradients,
        )
    else:
        gradients = reference.hstu_attention_backward(
            grad_out,
            q,
            k,
            v,
            rows=JaggedRows(history_lengths, offsets.diff() - history_lengths),
            key_limits=key_limits,
            timestamps=timestamps,
            alpha=alpha,
            norm_length=norm_length,
            bias=bias,
            window=window,
        )
    none = q.new_empty(0)
    return (
        gradients.q.contiguous(),
        gradients.k.contiguous(),
        gradients.v.contiguous(),
        none if gradients.position is None or not bias_gradients else gradients.position,
        none.clone() if gradients.time is None or not bias_gradients else gradients.time,
    )


@_hstu_attention_backward.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, k, v = inputs[1:4]
    position, time = inputs[8:10]
    wanted = inputs[-1]
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        torch.empty_like(position) if wanted else q.new_empty(0),
        torch.empty_like(time) if wanted else q.new_empty(0),
    )


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, max_rows, alpha, norm_length, window, backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.constants = (max_rows, alpha, norm_length, window, backend)


def _differentiate(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[7] or ctx.needs_input_grad[8]
    grad_q, grad_k, grad_v, grad_position, grad_time = _hstu_attention_backward(
        grad_out, *ctx.saved_tensors, *ctx.constants, wanted
    )
    tables = (grad_position, grad_time) if wanted else (None, None)
    return (grad_q, grad_k, grad_v, None, None, None, None, *tables, *[None] * 8)


_hstu_attention.register_autograd(_differentiate, setup_context=_remember)


def _bias(
    position: Tensor | None, time: Tensor | None, boundaries: Tensor | None
) -> RelativeBias | None:
    if position is None or time is None or boundaries is None:
        return None
    return RelativeBias(position, time, boundaries)


def _kernel_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    history_lengths: Tensor,
    key_limits: Tensor,
    bias: RelativeBias | None,
    seconds: Tensor | None,
    buckets: Tensor | None,
    max_rows: int,
    alpha: float,
    norm_length: int,
    window: int | None,
) -> AttentionArguments:
    """What the Triton kernels of forward and backward take."""
    from genrec_kernels.triton.hstu_attention import AttentionArguments

    times = None
    if seconds is not None and buckets is not None:
        times = TimePlan(seconds, buckets)
    elif bias is not None:
        raise ValueError("the Triton kernels need a time plan with the bias: see plan_times")
    return AttentionArguments(
        q=contiguous_rows(q),
        k=contiguous_rows(k),
        v=contiguous_rows(v),
        offsets=offsets,
        histories=history_lengths,
        max_rows=max_rows,
        key_limits=key_limits,
        alpha=alpha,
        norm_length=norm_length,
        window=window,
        bias=bias,
        times=times,
    )
