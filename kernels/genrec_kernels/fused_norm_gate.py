"""The two norms of an HSTU layer: at its head, and before its output projection, times u.

Letters in shapes: R rows, W width.
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
