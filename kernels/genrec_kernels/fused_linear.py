"""The two linear layers of an HSTU layer, each in one kernel with what follows it.

Letters in shapes: R rows, K width, N columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass import fused_linear as cutlass
from genrec_kernels.dispatch import Backend, choose_backend

#: float32 products would have to do without tensor cores, where cuBLAS is better.
_NARROW_DTYPES = (torch.bfloat16, torch.float16)


def linear_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, backend: Backend | None = None
) -> Tensor:
    """``SiLU(x · Wᵀ + b)``, added up in float32. It has no gradient: for inference.

    Args:
        x: float [..., K].
        weight: the same dtype [N, K], as in `torch.nn.Linear`.
        bias: the same dtype [N].
        backend: force one of `cutlass` (Hopper GPUs), `triton`, `reference`.

    Returns:
        float [..., N], in the dtype of `x`.

    Raises:
        ValueError: shapes or dtypes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    _check(x, weight, bias)
    if not torch.compiler.is_compiling():
        chosen = _choose("linear_silu", x, weight, bias, None, backend)
        if chosen == "reference":
            return reference.linear_silu(x, weight, bias)
        backend = chosen
    flat: Tensor = torch.ops.genrec.linear_silu(x.flatten(0, -2), weight, bias, backend)
    return flat.view(*x.shape[:-1], weight.shape[0])


def linear_add(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, *, backend: Backend | None = None
) -> Tensor:
    """``residual + x · Wᵀ + b``, added up in float32. It has no gradient: for inference.

    Args:
        x: float [..., K].
        weight: the same dtype [N, K], as in `torch.nn.Linear`.
        bias: the same dtype [N].
        residual: the same dtype [..., N].
        backend: force one of `cutlass` (Hopper GPUs), `triton`, `reference`.

    Returns:
        float [..., N], in the dtype of `x`.

    Raises:
        ValueError: shapes or dtypes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    _check(x, weight, bias)
    if residual.shape != (*x.shape[:-1], weight.shape[0]) or residual.dtype != x.dtype:
        raise ValueError(
            f"residual must be {x.dtype} {[*x.shape[:-1], weight.shape[0]]}, not "
            f"{residual.dtype} {list(residual.shape)}"
        )
    if not torch.compiler.is_compiling():
        chosen = _choose("linear_add", x, weight, bias, residual, backend)
        if chosen == "reference":
            return reference.linear_add(x, weight, bias, residual)
        backend = chosen
    flat: Tensor = torch.ops.genrec.linear_add(
        x.flatten(0, -2), weight, bias, residual.flatten(0, -2), backend
    )
    return flat.view(residual.shape)


def _check(x: Tensor, weight: Tensor, bias: Tensor) -> None:
    if weight.dim() != 2 or x.shape[-1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
        raise ValueError(
            "x must be [..., K], weight [N, K] and bias [N], not "
            + ", ".join(str(list(t.shape)) for t in (x, weight, bias))
        )
    if not x.dtype == weight.dtype == bias.dtype:
        raise ValueError(
            f"x, weight and bias differ in dtype: {x.dtype}, {weight.dtype}, {bias.dtype}"
        )


def _choose(
    op: str, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, forced: str | None
) -> Backend:
    offered: tuple[Backend, ...] = ("reference",)
    lacking: dict[Backend, str] = {}
    # The copy engine wants rows that begin at multiples of 16 bytes.
    aligned = weight.shape[1] % 8 == 0 and weight.shape[0] % 8 == 0
    if x.dtype in _NARROW_DTYPES and aligned and x.numel() > 0:
        offered, lacking = cutlass.offer(x, weight, bias, residual)
    return choose_backend(op, x.device, offered, forced=forced, lacking=lacking)


@torch.library.custom_op("genrec::linear_silu", mutates_args=())
def _linear_silu(x: Tensor, weight: Tensor, bias: Tensor, backend: str | None) -> Tensor:
    x, weight, bias = (t.contiguous() for t in (x, weight, bias))
    chosen = _choose("linear_silu", x, weight, bias, None, backend)
    if chosen == "reference":
        return reference.linear_silu(x, weight, bias)
    with on_device_of(x):
        if chosen == "cutlass":
            return cutlass.linear_silu(x, weight, bias)
        from genrec_kernels.triton import fused_linear as triton

        return triton.linear_silu(x, weight, bias)


@torch.library.custom_op("genrec::linear_add", mutates_args=())
def _linear_add(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, backend: str | None
) -> Tensor:
    x, weight, bias, residual = (t.contiguous() for t in (x, weight, bias, residual))
    chosen = _choose("linear_add", x, weight, bias, residual, backend)
    if chosen == "reference":
        return reference.linear_add(x, weight, bias, residual)
    with on_device_of(x):
        if chosen == "cutlass":
            return cutlass.linear_add(x, weight, bias, residual)
        from genrec_kernels.triton import fused_linear as triton

        return triton.linear_add(x, weight, bias, residual)


@_linear_silu.register_fake
@_linear_add.register_fake
def _fake(x: Tensor, weight: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])
