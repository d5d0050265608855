"""``LayerNorm(x)``, ``LayerNorm(x) ⊙ u`` and its gradient, in Triton: all is read or written once.

What comes out may be float8 (e4m3) with a scale for each row, for products in eight bits.

Letters in shapes: R rows of a program's tile, W width (padded to a power of 2), P parts of which
a row is the sum (padded to a power of 2).
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.fp8_layout import LARGEST, LEAST_SCALE
from genrec_kernels.narrow_rows import NarrowRows

#: Elements of a forward tile of several short rows; longer rows come alone.
ELEMENTS = 2048
_LARGEST = tl.constexpr(LARGEST)
_LEAST = tl.constexpr(LEAST_SCALE)
_NAN = tl.constexpr(tl.PropagateNan.ALL)
#: Rows that are enough for programs of fewer warps.
MANY_ROWS = 1024
#: Elements of a program's parts, of one row, that a warp takes.
PART_ELEMENTS = 2048
#: Programs of the backward kernel; each adds up its own gradient of weight and bias.
BACKWARD_PROGRAMS = 1056


@triton.jit(do_not_specialize=["num_rows", "num_parts"])
def _forward(
    x_ptr, u_ptr, weight_ptr, bias_ptr, out_ptr, scale_ptr, mean_ptr, rstd_ptr,
    num_rows, num_parts, x_part, x_row, u_row, eps,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr, GATE: tl.constexpr, STATISTICS: tl.constexpr, FP8: tl.constexpr,
):  # fmt: skip
    """Without GATE the norm alone; STATISTICS are what only a gradient needs.

    With BLOCK_PARTS, which takes rows one by one, a row of x is a sum, always in the same order.
    """
    row_R = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column_W = tl.arange(0, BLOCK_WIDTH)
    in_width_W = column_W < WIDTH
    real_RW = (row_R < num_rows)[:, None] & in_width_W[None, :]
    x_at_RW = x_ptr + row_R[:, None] * x_row + column_W[None, :]
    if BLOCK_PARTS:
        part_P = tl.arange(0, BLOCK_PARTS).to(tl.int64)
        x_at_PW = x_at_RW + part_P[:, None] * x_part
        real_PW = real_RW & (part_P < num_parts)[:, None]
        x_PW = tl.load(x_at_PW, mask=real_PW, other=0.0).to(tl.float32)
        x_RW = tl.sum(x_PW, 0)[None, :]
    else:
        x_RW = tl.load(x_at_RW, mask=real_RW, other=0.0).to(tl.float32)
    if GATE:
        u_at_RW = u_ptr + row_R[:, None] * u_row + column_W[None, :]
        u_RW = tl.load(u_at_RW, mask=real_RW, other=0.0).to(tl.float32)
    weight_W = tl.load(weight_ptr + column_W, mask=in_width_W, other=0.0).to(tl.float32)
    bias_W = tl.load(bias_ptr + column_W, mask=in_width_W, other=0.0).to(tl.float32)

    mean_R = tl.sum(x_RW, 1) / WIDTH
    centred_RW = tl.where(real_RW, x_RW - mean_R[:, None], 0.0)
    rstd_R = tl.rsqrt(tl.sum(centred_RW * centred_RW, 1) / WIDTH + eps)
    normal_RW = centred_RW * rstd_R[:, None]
    out_RW = normal_RW * weight_W[None, :] + bias_W[None, :]
    if GATE:
        out_RW *= u_RW
    if FP8:
        scale_R = tl.maximum(tl.max(tl.abs(out_RW), 1) / _LARGEST, _LEAST, _NAN)
        tl.store(scale_ptr + row_R, scale_R, mask=row_R < num_rows)
        out_RW *= tl.div_rn(1.0, scale_R)[:, None]  # a division a number would take longer
    out_at_RW = out_ptr + row_R[:, None] * WIDTH + column_W[None, :]
    tl.store(out_at_RW, out_RW.to(out_ptr.dtype.element_ty), mask=real_RW)
    if STATISTICS:
        tl.store(mean_ptr + row_R, mean_R, mask=row_R < num_rows)
        tl.store(rstd_ptr + row_R, rstd_R, mask=row_R < num_rows)


@triton.jit(do_not_specialize=["num_rows"])
def _backward(
    grad_ptr, x_ptr, u_ptr, weight_ptr, bias_ptr, mean_ptr, rstd_ptr,
    grad_x_ptr, grad_u_ptr, grad_weight_ptr, grad_bias_ptr,
    num_rows, grad_row, x_row, u_row,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    column_W = tl.arange(0, BLOCK_WIDTH)
    in_width_W = column_W < WIDTH
    weight_W = tl.load(weight_ptr + column_W, mask=in_width_W, other=0.0).to(tl.float32)
    bias_W = tl.load(bias_ptr + column_W, mask=in_width_W, other=0.0).to(tl.float32)
    grad_weight_W = tl.zeros([BLOCK_WIDTH], dtype=tl.float32)
    grad_bias_W = tl.zeros([BLOCK_WIDTH], dtype=tl.float32)
    step = tl.num_programs(0) * BLOCK_ROWS
    for first in range(tl.program_id(0) * BLOCK_ROWS, num_rows, step):
        row_R = (first + tl.arange(0, BLOCK_ROWS)).to(tl.int64)
        real_R = row_R < num_rows
        real_RW = real_R[:, None] & in_width_W[None, :]
        x_at_RW = x_ptr + row_R[:, None] * x_row + column_W[None, :]
        u_at_RW = u_ptr + row_R[:, None] * u_row + column_W[None, :]
        grad_at_RW = grad_ptr + row_R[:, None] * grad_row + column_W[None, :]
        x_RW = tl.load(x_at_RW, mask=real_RW, other=0.0).to(tl.float32)
        u_RW = tl.load(u_at_RW, mask=real_RW, other=0.0).to(tl.float32)
        grad_RW = tl.load(grad_at_RW, mask=real_RW, other=0.0).to(tl.float32)
        mean_R = tl.load(mean_ptr + row_R, mask=real_R, other=0.0)
        rstd_R = tl.load(rstd_ptr + row_R, mask=real_R, other=0.0)

        normal_RW = tl.where(real_RW, (x_RW - mean_R[:, None]) * rstd_R[:, None], 0.0)
        grad_u_RW = grad_RW * (normal_RW * weight_W[None, :] + bias_W[None, :])
        grad_norm_RW = grad_RW * u_RW
        grad_weight_W += tl.sum(grad_norm_RW * normal_RW, 0)
        grad_bias_W += tl.sum(grad_norm_RW, 0)
        grad_normal_RW = grad_norm_RW * weight_W[None, :]
        mean_grad_R = tl.sum(grad_normal_RW, 1) / WIDTH
        along_R = tl.sum(grad_normal_RW * normal_RW, 1) / WIDTH
        grad_x_RW = grad_normal_RW - mean_grad_R[:, None] - normal_RW * along_R[:, None]
        grad_x_RW *= rstd_R[:, None]
        at_RW = row_R[:, None] * WIDTH + column_W[None, :]
        tl.store(grad_x_ptr + at_RW, grad_x_RW.to(grad_x_ptr.dtype.element_ty), mask=real_RW)
        tl.store(grad_u_ptr + at_RW, grad_u_RW.to(grad_u_ptr.dtype.element_ty), mask=real_RW)
    at_W = tl.program_id(0) * WIDTH + column_W
    tl.store(grad_weight_ptr + at_W, grad_weight_W, mask=in_width_W)
    tl.store(grad_bias_ptr + at_W, grad_bias_W, mask=in_width_W)


def _forward_tile(width: int) -> dict[str, int]:
    block_width = triton.next_power_of_2(width)
    return {
        "WIDTH": width,
        "BLOCK_WIDTH": block_width,
        "BLOCK_ROWS": max(1, ELEMENTS // block_width),
        "num_warps": 4 if block_width <= 2048 else 8,
    }


def _backward_tile(width: int) -> dict[str, int]:
    """16 numbers a thread of each of the many tensors: more warps would wait, fewer spill."""
    block_width = triton.next_power_of_2(width)
    rows = max(2 if block_width <= 4096 else 1, 1024 // block_width)
    return {
        "WIDTH": width,
        "BLOCK_WIDTH": block_width,
        "BLOCK_ROWS": rows,
        "num_warps": min(16, max(1, rows * block_width // 512)),
    }


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As `torch.nn.functional.layer_norm` over the last axis of [R, W], which is contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _norm(x, None, weight, bias, eps, out=out)
    return out


def layer_norm_fp8(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> NarrowRows:
    """`layer_norm` in eight bits."""
    out = _empty_fp8(x)
    _norm(x, None, weight, bias, eps, out=out.numbers, scales=out.scales)
    return out


def norm_gate(
    x: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `genrec_kernels.reference.norm_gate`; last axes must be contiguous."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    mean = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    rstd = torch.empty_like(mean)
    _norm(x, u, weight, bias, eps, out=out, statistics=(mean, rstd))
    return out, mean, rstd


def norm_gate_of_parts(
    parts: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """As `norm_gate` of the sum of float [P, R, W] over P, of which rows are contiguous."""
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    _norm(parts, u, weight, bias, eps, out=out)
    return out


def norm_gate_of_parts_fp8(
    parts: Tensor, u: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> NarrowRows:
    """`norm_gate_of_parts` in eight bits."""
    out = _empty_fp8(u)
    _norm(parts, u, weight, bias, eps, out=out.numbers, scales=out.scales)
    return out


def _empty_fp8(like: Tensor) -> NarrowRows:
    return NarrowRows(
        torch.empty(like.shape, dtype=torch.float8_e4m3fn, device=like.device),
        torch.empty(like.shape[0], dtype=torch.float32, device=like.device),
    )


def _norm(
    x: Tensor,
    u: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    out: Tensor,
    scales: Tensor | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Fill `out` [R, W] from x [R, W], or from parts of it [P, R, W]."""
    num_rows, width = out.shape
    if num_rows == 0:
        return
    num_parts = x.shape[0] if x.dim() == 3 else 1
    if num_parts > 1:
        block_width, block_parts = (triton.next_power_of_2(n) for n in (width, num_parts))
        tile = {
            "WIDTH": width,
            "BLOCK_WIDTH": block_width,
            "BLOCK_ROWS": 1,
            "num_warps": min(16, max(4, block_parts * block_width // PART_ELEMENTS)),
        }
    else:
        tile, block_parts = _forward_tile(width), 0
        if scales is not None and num_rows >= MANY_ROWS:
            # Warps wait for each other once more in eight bits, for the greatest number of a row:
            # with rows enough fewer, measured on an H200.
            tile["num_warps"] = max(1, tile["BLOCK_WIDTH"] // ELEMENTS)
    mean, rstd = statistics or (weight, weight)
    _forward[(triton.cdiv(num_rows, tile["BLOCK_ROWS"]),)](
        x, x if u is None else u, weight, bias, out, weight if scales is None else scales,
        mean, rstd, num_rows, num_parts, x.stride(0), x.stride(-2), 0 if u is None else u.stride(0),
        eps, BLOCK_PARTS=block_parts, GATE=u is not None, STATISTICS=statistics is not None,
        FP8=scales is not None, **tile,
    )  # fmt: skip


def norm_gate_backward(
    grad: Tensor,
    x: Tensor,
    u: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `genrec_kernels.reference.norm_gate_backward`; last axes must be contiguous."""
    num_rows, width = x.shape
    tile = _backward_tile(width)
    programs = min(BACKWARD_PROGRAMS, max(1, triton.cdiv(num_rows, tile["BLOCK_ROWS"])))
    grad_x = torch.empty((num_rows, width), dtype=x.dtype, device=x.device)
    grad_u = torch.empty((num_rows, width), dtype=u.dtype, device=x.device)
    parts = torch.empty((2, programs, width), dtype=torch.float32, device=x.device)
    _backward[(programs,)](
        grad, x, u, weight, bias, mean, rstd, grad_x, grad_u, parts[0], parts[1],
        num_rows, grad.stride(0), x.stride(0), u.stride(0), **tile,
    )  # fmt: skip
    sums = parts.sum(1)
    # Copies: an op's results must not share memory.
    return grad_x, grad_u, sums[0].to(weight.dtype, copy=True), sums[1].to(bias.dtype, copy=True)
