"""Rows in eight bits, in Triton: into pages as `genrec_kernels.fp8_pages` has them, and queries.

Letters in shapes: X rows of a program, D dimensions of a program (of a head, or a part of them).
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.dispatch import interpreting
from genrec_kernels.fp8_layout import LARGEST, PERMUTED, largest_factor
from genrec_kernels.fp8_pages import FP8, keys_and_values
from genrec_kernels.triton.page_write import time_arguments

#: Rows of a program that writes pages: a value's bytes of so many rows lie side by side.
ROWS = 32
#: Dimensions of such a program.
DIMENSIONS = 64
#: Elements of a program that rounds rows.
ELEMENTS = 2048


@triton.jit
def _rounded(x_XD, factor, LARGEST: tl.constexpr):
    """Rows times one over their head's scale, cut to the largest."""
    return tl.clamp(
        x_XD.to(tl.float32) * factor, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL
    ).to(tl.float8e4nv)


@triton.jit
def _in_rows(x, ASM: tl.constexpr):
    """Itself; Triton would else load rows as they are stored, a few bytes of each at a time."""
    if ASM:
        bits = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x.to(tl.uint8, bitcast=True)],
            dtype=tl.uint8, is_pure=False, pack=4,
        )  # fmt: skip
        return bits.to(tl.float8e4nv, bitcast=True)
    else:
        return x


@triton.jit(do_not_specialize=["num_rows"])
def _write(
    k_ptr, v_ptr, slots_ptr, times_ptr, scales_ptr, keys_ptr, values_ptr, page_times_ptr, num_rows,
    k_row, k_head, v_row, v_head, kv_page, kv_head, times_page, times_row,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, PAGE: tl.constexpr,
    PERMUTED: tl.constexpr, LARGEST: tl.constexpr, LARGEST_KEY: tl.constexpr,
    HAS_TIMES: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """`BLOCK_ROWS` rows and `BLOCK_DIM` dimensions of one head."""
    head = tl.program_id(1)
    row_X = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    slot_X = tl.load(slots_ptr + row_X, mask=row_X < num_rows, other=-1).to(tl.int64)
    if tl.max(slot_X) < 0:  # candidates, or padding
        return
    dim_D = tl.program_id(2) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    real_X = slot_X >= 0
    page_X, place_X = slot_X // PAGE, slot_X % PAGE
    in_head_D = dim_D < HEAD_DIM
    real_XD = real_X[:, None] & in_head_D[None, :]
    at_X = page_X * kv_page + head.to(tl.int64) * kv_head
    k_factor = tl.div_rn(1.0, tl.load(scales_ptr + head))
    v_factor = tl.div_rn(1.0, tl.load(scales_ptr + tl.num_programs(1) + head))

    k_at_X = k_ptr + row_X * k_row + head * k_head
    v_at_X = v_ptr + row_X * v_row + head * v_head
    k_XD = tl.load(k_at_X[:, None] + dim_D[None, :], mask=real_XD)
    v_XD = tl.load(v_at_X[:, None] + dim_D[None, :], mask=real_XD)
    keys_at_XD = keys_ptr + (at_X + place_X * HEAD_DIM)[:, None] + dim_D[None, :]
    tl.store(keys_at_XD, _rounded(k_XD, k_factor, LARGEST_KEY), mask=real_XD)

    # The place of each key, see `fp8_layout`.
    key_X = place_X % PERMUTED
    value_X = at_X + place_X - key_X + key_X % 8 // 2 * 4 + key_X // 8 * 2 + key_X % 2
    values_at_DX = values_ptr + value_X[None, :] + (dim_D * PAGE)[:, None]
    v_DX = tl.trans(_in_rows(_rounded(v_XD, v_factor, LARGEST), ASM))
    tl.store(values_at_DX, v_DX, mask=in_head_D[:, None] & real_X[None, :])
    if HAS_TIMES:
        once_X = real_X & (head == 0) & (tl.program_id(2) == 0)
        time_X = tl.load(times_ptr + row_X, mask=once_X)
        tl.store(page_times_ptr + page_X * times_page + place_X * times_row, time_X, mask=once_X)


def page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    *,
    kv_pages: Tensor,
    timestamps: Tensor | None,
    timestamp_pages: Tensor | None,
    kv_scales: Tensor,
) -> None:
    """As `genrec_kernels.page_write` for pages of eight bits; last axes must be contiguous."""
    num_rows, num_heads, head_dim = k.shape
    if num_rows == 0:
        return
    times, time_pages, time_strides = time_arguments(slots, timestamps, timestamp_pages)
    keys, values = keys_and_values(kv_pages)
    block_dim = min(DIMENSIONS, triton.next_power_of_2(head_dim))
    _write[(triton.cdiv(num_rows, ROWS), num_heads, triton.cdiv(head_dim, block_dim))](
        k, v, slots, times, kv_scales, keys, values, time_pages, num_rows,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), *keys.stride()[:2], *time_strides,
        HEAD_DIM=head_dim, BLOCK_DIM=block_dim, BLOCK_ROWS=ROWS, PAGE=kv_pages.shape[2],
        PERMUTED=PERMUTED, LARGEST=LARGEST, LARGEST_KEY=largest_factor(head_dim),
        HAS_TIMES=times is not slots, ASM=not interpreting(), num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def _narrow_queries(
    q_ptr, k_scales_ptr, out_ptr, num_rows, qk_scale, q_row, q_head,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Rows of one head after the other: X counts both."""
    pair_X = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_X, head_X = pair_X // NUM_HEADS, pair_X % NUM_HEADS
    dim_D = tl.arange(0, BLOCK_DIM)
    real_XD = (row_X < num_rows)[:, None] & (dim_D < HEAD_DIM)[None, :]
    q_at_X = q_ptr + row_X * q_row + head_X * q_head
    q_XD = tl.load(q_at_X[:, None] + dim_D[None, :], mask=real_XD)
    factor_X = tl.load(k_scales_ptr + head_X) / qk_scale
    out_at_XD = out_ptr + (pair_X * HEAD_DIM)[:, None] + dim_D[None, :]
    tl.store(out_at_XD, _rounded(q_XD, factor_X[:, None], LARGEST), mask=real_XD)


def narrow_queries(q: Tensor, k_scales: Tensor, qk_scale: float) -> Tensor:
    """``q · k_scales / qk_scale`` in float8, so that products with keys are times `qk_scale`.

    Args:
        q: float [R, H, D], the last axis contiguous.
        k_scales: float32 [H], of keys in eight bits.
        qk_scale: of products.
    """
    num_rows, num_heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=FP8, device=q.device)
    if num_rows:
        block_dim = triton.next_power_of_2(head_dim)
        block_rows = max(1, ELEMENTS // block_dim)
        _narrow_queries[(triton.cdiv(num_rows * num_heads, block_rows),)](
            q, k_scales, out, num_rows, qk_scale, q.stride(0), q.stride(1),
            NUM_HEADS=num_heads, HEAD_DIM=head_dim, BLOCK_DIM=block_dim, BLOCK_ROWS=block_rows,
            LARGEST=largest_factor(head_dim), num_warps=4,
        )  # fmt: skip
    return out
