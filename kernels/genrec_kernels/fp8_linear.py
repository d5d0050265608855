"""The two linear layers of an HSTU layer in eight bits, and the norms before them.

Weights are float8 (e4m3) with a scale for each row, which is an output; what they are multiplied
by is rounded by the norm before, each row with a scale of its own, so that nothing has to be known
of it beforehand. Sums, norms and what follows stay in float32.

Letters in shapes: R rows, K width, N columns, P parts of which a row is the sum.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.contiguous_rows import contiguous_rows
from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass import fused_linear as cutlass
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.fp8_pages import LACKS_FP8, knows_fp8
from genrec_kernels.narrow_rows import NarrowRows, narrow_rows
from genrec_kernels.reference.norm_gate import norm_gate_of_parts

#: Numbers of a row come in units of so many: the copy engine wants 16 bytes.
_UNIT = 16


def layer_norm_fp8(
    x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6, backend: Backend | None = None
) -> NarrowRows:
    """``LayerNorm(x)`` in eight bits; no gradient.

    Args:
        x: float [R, K]; any stride of rows.
        weight, bias: float [K].
        eps: added to the variance.
        backend: force one of `triton`, `reference`.

    Raises:
        BackendUnavailable: the forced backend cannot run.
    """
    chosen = _choose("layer_norm_fp8", x.device, forced=backend)
    if chosen == "reference":
        wide = torch.nn.functional.layer_norm(
            x.float(), x.shape[-1:], weight.float(), bias.float(), eps
        )
        return narrow_rows(wide)
    from genrec_kernels.triton import fused_norm_gate

    with on_device_of(x):
        return fused_norm_gate.layer_norm_fp8(
            contiguous_rows(x), weight.contiguous(), bias.contiguous(), eps
        )


def norm_gate_fp8(
    parts: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-6,
    backend: Backend | None = None,
) -> NarrowRows:
    """``LayerNorm(sum of parts) ⊙ u`` in eight bits, as `fused_norm_gate.norm_gate_of_parts`.

    Args:
        parts: float [P, R, K], added up over P in a fixed order; P at least 1.
        u: float [R, K]; any stride of rows.
        weight, bias: float [K].
        eps: added to the variance.
        backend: force one of `triton`, `reference`.

    Raises:
        BackendUnavailable: the forced backend cannot run.
    """
    chosen = _choose("norm_gate_fp8", u.device, forced=backend)
    if chosen == "reference":
        wide = norm_gate_of_parts(parts, u.float(), weight, bias, eps)
        return narrow_rows(wide)
    from genrec_kernels.triton import fused_norm_gate

    with on_device_of(u):
        return fused_norm_gate.norm_gate_of_parts_fp8(
            contiguous_rows(parts), contiguous_rows(u), weight.contiguous(), bias.contiguous(),
            eps,
        )  # fmt: skip


def linear_silu_fp8(
    x: NarrowRows, weight: NarrowRows, bias: Tensor, *, backend: Backend | None = None
) -> Tensor:
    """``SiLU(x · Wᵀ + b)``, added up by the tensor cores in eight bits. It has no gradient.

    Args:
        x: [R, K].
        weight: [N, K].
        bias: bfloat16 or float16 (in the reference any float) [N].
        backend: force one of `cutlass` (Hopper GPUs), `triton`, `reference`.

    Returns:
        float [R, N], in the dtype of `bias`.

    Raises:
        ValueError: shapes do not fit together.
        BackendUnavailable: the forced backend cannot run.
    """
    return _linear("linear_silu_fp8", x, weight, bias, None, backend)


def linear_add_fp8(
    x: NarrowRows,
    weight: NarrowRows,
    bias: Tensor,
    residual: Tensor,
    *,
    backend: Backend | None = None,
) -> Tensor:
    """``residual + x · Wᵀ + b``, as `linear_silu_fp8`.

    Args:
        residual: [R, N], in the dtype of `bias`.
    """
    return _linear("linear_add_fp8", x, weight, bias, residual, backend)


def _linear(
    op: str,
    x: NarrowRows,
    weight: NarrowRows,
    bias: Tensor,
    residual: Tensor | None,
    backend: Backend | None,
) -> Tensor:
    (rows, width), columns = x.numbers.shape, weight.numbers.shape[0]
    if weight.numbers.shape != (columns, width) or bias.shape != (columns,):
        raise ValueError(
            "x must be [R, K], weight [N, K] and bias [N], not "
            + ", ".join(str(list(t.shape)) for t in (x.numbers, weight.numbers, bias))
        )
    if residual is not None and (residual.shape != (rows, columns) or residual.dtype != bias.dtype):
        raise ValueError(
            f"residual must be {bias.dtype} {[rows, columns]}, not {residual.dtype} "
            f"{list(residual.shape)}"
        )
    bias = bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    offered: tuple[Backend, ...] = ("reference",)
    lacking: dict[Backend, str] = {}
    if bias.dtype.itemsize == 2 and width % _UNIT == 0 and columns % _UNIT == 0 and rows > 0:
        offered, lacking = cutlass.offer(x, weight, bias, residual)
    chosen = _choose(op, bias.device, forced=backend, offered=offered, lacking=lacking)
    if chosen == "reference":
        wide = x.wide(), weight.wide(), bias.float()
        if residual is None:
            return reference.linear_silu(*wide).to(bias.dtype)
        return reference.linear_add(*wide, residual.float()).to(bias.dtype)
    with on_device_of(bias):
        if chosen == "cutlass":
            if residual is None:
                return cutlass.linear_silu(x, weight, bias)
            return cutlass.linear_add(x, weight, bias, residual)
        from genrec_kernels.triton import fused_linear as triton

        if residual is None:
            return triton.linear_silu(x, weight, bias)
        return triton.linear_add(x, weight, bias, residual)


def _choose(
    op: str,
    device: torch.device,
    *,
    forced: Backend | None,
    offered: tuple[Backend, ...] = ("triton", "reference"),
    lacking: Mapping[Backend, str] | None = None,
) -> Backend:
    if not knows_fp8(device):
        offered, lacking = ("reference",), {"triton": LACKS_FP8, "cutlass": LACKS_FP8}
    return choose_backend(op, device, offered, forced=forced, lacking=lacking)
