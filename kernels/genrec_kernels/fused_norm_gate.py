"""The two norms of an HSTU layer: at its head, and before its output projection, times u.

Letters in shapes: R rows, W width, P parts of which a row is the sum.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.current_device import on_device_of
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.reference import norm_gate as reference

_TRITON_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_MAX_TRITON_WIDTH = 16_384
_MAX_TRITON_PARTS = 64


def norm_gate(
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-6,
    backend: Backend | None = None,
) -> Tensor:
    """``LayerNorm(x) ⊙ u``, with gradients by all four tensors; computed in float32.

    Args:
        x, u: float [..., W], of one shape; any strides.
        weight, bias: float [W].
        eps: added to the variance.
        backend: force one of `triton`, `reference`.

    Returns:
        float [..., W], in the dtype of `x`.

    Raises:
        ValueError: shapes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    if u.shape != x.shape or weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(
            "x and u must be [..., W], weight and bias [W], not "
            + ", ".join(str(list(t.shape)) for t in (x, u, weight, bias))
        )
    width = x.shape[-1]
    if not torch.compiler.is_compiling():
        chosen = choose_backend("norm_gate", x.device, _offered(x), forced=backend)
        if chosen == "reference" and x.dtype.itemsize >= 4:  # PyTorch's own knows the gradient
            return F.layer_norm(x, (width,), weight, bias, eps) * u
    elif torch.compiler.is_exporting():  # what is exported must run without this package
        return F.layer_norm(x, (width,), weight, bias, eps) * u
    out_RW, _, _ = torch.ops.genrec.norm_gate(
        x.reshape(-1, width), u.reshape(-1, width), weight, bias, eps, backend
    )
    return out_RW.view(x.shape)  # type: ignore[no-any-return]


def norm_gate_of_parts(
    parts: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-6,
    backend: Backend | None = None,
) -> Tensor:
    """``LayerNorm(sum of parts) ⊙ u``, computed in float32. It has no gradient: for inference.

    Attention whose keys were cut into parts leaves them so; to add them up by themselves would
    write and read each row once more.

    Args:
        parts: float [P, R, W], added up over P in a fixed order; P at least 1.
        u: float [R, W]; any strides.
        weight, bias: float [W].
        eps: added to the variance.
        backend: force one of `triton`, `reference`.

    Returns:
        float [R, W], in the dtype of `u`.

    Raises:
        ValueError: shapes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    width = parts.shape[-1]
    if (
        parts.dim() != 3
        or len(parts) == 0
        or u.shape != parts.shape[1:]
        or weight.shape != (width,)
        or bias.shape != (width,)
    ):
        raise ValueError(
            "parts must be [P, R, W], u [R, W], weight and bias [W], not "
            + ", ".join(str(list(t.shape)) for t in (parts, u, weight, bias))
        )
    if len(parts) == 1:
        return norm_gate(parts[0], u, weight, bias, eps=eps, backend=backend)
    out: Tensor = torch.ops.genrec.norm_gate_of_parts(parts, u, weight, bias, eps, backend)
    return out


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6, backend: Backend | None = None
) -> Tensor:
    """``LayerNorm(x)``, computed in float32. It has no gradient: for inference.

    Args:
        x: float [..., W]; any strides.
        weight, bias: float [W].
        eps: added to the variance.
        backend: force one of `triton`, `reference`.

    Returns:
        float [..., W], in the dtype of `x`.

    Raises:
        ValueError: shapes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    width = x.shape[-1]
    if weight.shape != (width,) or bias.shape != (width,):
        raise ValueError(
            "x must be [..., W], weight and bias [W], not "
            + ", ".join(str(list(t.shape)) for t in (x, weight, bias))
        )
    if not torch.compiler.is_compiling():
        chosen = choose_backend("layer_norm", x.device, _offered(x), forced=backend)
        if chosen == "reference":
            return F.layer_norm(x, (width,), weight, bias, eps)
        backend = chosen
    out_RW: Tensor = torch.ops.genrec.layer_norm(x.reshape(-1, width), weight, bias, eps, backend)
    return out_RW.view(x.shape)


@torch.library.custom_op("genrec::norm_gate_of_parts", mutates_args=())
def _norm_gate_of_parts(
    parts: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str | None
) -> Tensor:
    offered = _offered(parts) if len(parts) <= _MAX_TRITON_PARTS else ("reference",)
    if choose_backend("norm_gate_of_parts", u.device, offered, forced=backend) == "reference":
        return reference.norm_gate_of_parts(parts, u, weight, bias, eps)
    from genrec_kernels.triton import fused_norm_gate

    with on_device_of(u):
        return fused_norm_gate.norm_gate_of_parts(
            contiguous_rows(parts), contiguous_rows(u), weight.contiguous(), bias.contiguous(),
            eps,
        )  # fmt: skip


@_norm_gate_of_parts.register_fake
def _fake_of_parts(_parts: Tensor, u: Tensor, *_: object) -> Tensor:
    return u.new_empty(u.shape)


def _offered(x: Tensor) -> tuple[Backend, ...]:
    fits = x.dtype in _TRITON_DTYPES and x.shape[-1] <= _MAX_TRITON_WIDTH
    return ("triton", "reference") if fits else ("reference",)


def _implementation(x: Tensor, backend: str | None) -> Any:
    if choose_backend("norm_gate", x.device, _offered(x), forced=backend) == "reference":
        return reference
    from genrec_kernels.triton import fused_norm_gate

    return fused_norm_gate


@torch.library.custom_op("genrec::norm_gate", mutates_args=())
def _norm_gate(
    x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str | None
) -> tuple[Tensor, Tensor, Tensor]:
    run = _implementation(x, backend).norm_gate
    with on_device_of(x):
        out, mean, rstd = run(
            contiguous_rows(x), contiguous_rows(u), weight.contiguous(), bias.contiguous(), eps
        )
    return out, mean, rstd


@_norm_gate.register_fake
def _fake(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    statistic = x.new_empty(x.shape[:1], dtype=torch.promote_types(x.dtype, torch.float32))
    return x.new_empty(x.shape), statistic, torch.empty_like(statistic)


@torch.library.custom_op("genrec::layer_norm", mutates_args=())
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, backend: str | None) -> Tensor:
    if choose_backend("layer_norm", x.device, _offered(x), forced=backend) == "reference":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    from genrec_kernels.triton import fused_norm_gate

    with on_device_of(x):
        return fused_norm_gate.layer_norm(
            contiguous_rows(x), weight.contiguous(), bias.contiguous(), eps
        )


@_layer_norm.register_fake
def _fake_layer_norm(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("genrec::norm_gate_backward", mutates_args=())
def _norm_gate_backward(
    grad: Tensor,
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    run = _implementation(x, backend).norm_gate_backward
    rows = (contiguous_rows(t) for t in (grad, x, u))
    with on_device_of(x):
        grad_x, grad_u, grad_weight, grad_bias = run(
            *rows, weight.contiguous(), bias.contiguous(), mean, rstd
        )
    return grad_x, grad_u, grad_weight, grad_bias


@_norm_gate_backward.register_fake
def _fake_backward(
    _grad: Tensor, x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape),
        u.new_empty(u.shape),
        weight.new_empty(weight.shape),
        bias.new_empty(bias.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, u, weight, bias, _, ctx.backend = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, u, weight, bias, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd)


def _differentiate(ctx: Any, grad: Tensor, *_: object) -> tuple[Any, ...]:
    grads = torch.ops.genrec.norm_gate_backward(grad, *ctx.saved_tensors, ctx.backend)
    return *grads, None, None


_norm_gate.register_autograd(_differentiate, setup_context=_save)
