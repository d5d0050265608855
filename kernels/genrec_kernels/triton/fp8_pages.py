"""Rows in eight bits, in Triton: into pages as `genrec_kernels.fp8_pages` lays them out, and queries.

Letters in shapes: X rows of a program, D head width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.fp8_layout import LARGEST, PERMUTED
from genrec_kernels.fp8_pages import FP8, keys_and_values

#: Rows of a program that writes pages: a value's bytes of so many rows lie side by side.
ROWS = 32
#: Elements of a program that rounds rows.
ELEMENTS = 4096
_LARGEST = tl.constexpr(LARGEST)


@triton.jit
def _rounded(x_XD, scale):
    """Rows divided by their head's scale, as rounded as the twin's, and cut to what float8 holds."""
    x_XD = x_XD.to(tl.float32)
    scaled_XD = tl.div_rn(x_XD, tl.broadcast_to(scale, x_XD.shape))
    return tl.clamp(scaled_XD, -_LARGEST, _LARGEST, propagate_nan=tl.PropagateNan.ALL).to(
        tl.float8e4nv
    )


@triton.jit(do_not_specialize=["num_rows"])
def _write(
    k_ptr, v_ptr, slots_ptr, times_ptr, scales_ptr, keys_ptr, values_ptr, page_times_ptr, num_rows,
    k_row, k_head, v_row, v_head, kv_page, kv_head, times_page, times_row,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, PAGE: tl.constexpr,
    PERMUTED: tl.constexpr, HAS_TIMES: tl.constexpr,
):  # fmt: skip
    """`BLOCK_ROWS` rows of one head."""
    head = tl.program_id(1)
    row_X = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    dim_D = tl.arange(0, BLOCK_DIM)
    slot_X = tl.load(slots_ptr + row_X, mask=row_X < num_rows, other=-1).to(tl.int64)
    real_X = slot_X >= 0
    page_X, place_X = slot_X // PAGE, slot_X % PAGE
    in_head_D = dim_D < HEAD_DIM
    real_XD = real_X[:, None] & in_head_D[None, :]
    at_X = page_X * kv_page + head.to(tl.int64) * kv_head

    k_at_X = k_ptr + row_X * k_row + head * k_head
    k_XD = tl.load(k_at_X[:, None] + dim_D[None, :], mask=real_XD)
    keys_at_XD = keys_ptr + (at_X + place_X * HEAD_DIM)[:, None] + dim_D[None, :]
    tl.store(keys_at_XD, _rounded(k_XD, tl.load(scales_ptr + head)), mask=real_XD)

    v_at_X = v_ptr + row_X * v_row + head * v_head
    v_XD = tl.load(v_at_X[:, None] + dim_D[None, :], mask=real_XD)
    v_DX = tl.trans(_rounded(v_XD, tl.load(scales_ptr + tl.num_programs(1) + head)))
    # The place of each key, see `fp8_layout`.
    key_X = place_X % PERMUTED
    place_X = place_X - key_X + key_X % 8 // 2 * 4 + key_X // 8 * 2 + key_X % 2
    values_at_DX = values_ptr + (at_X + place_X)[None, :] + (dim_D * PAGE)[:, None]
    tl.store(values_at_DX, v_DX, mask=in_head_D[:, None] & real_X[None, :])
    if HAS_TIMES:
        once_X = real_X & (head == 0)
        place_X = slot_X % PAGE
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
    if timestamps is None or timestamp_pages is None:
        times, time_pages, time_strides = slots, slots, (0, 0)
    else:
        times, time_pages = timestamps, timestamp_pages
        time_strides = (time_pages.stride(0), time_pages.stride(1))
    keys, values = keys_and_values(kv_pages)
    _write[(triton.cdiv(num_rows, ROWS), num_heads)](
        k, v, slots, times, kv_scales, keys, values, time_pages, num_rows,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), *keys.stride()[:2], *time_strides,
        HEAD_DIM=head_dim, BLOCK_DIM=triton.next_power_of_2(head_dim), BLOCK_ROWS=ROWS,
        PAGE=kv_pages.shape[2], PERMUTED=PERMUTED, HAS_TIMES=times is not slots,
        num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def _narrow(
    x_ptr, scales_ptr, out_ptr, num_rows, x_row, x_head,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Rows of one head after the other: X counts both."""
    pair_X = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_X, head_X = pair_X // NUM_HEADS, pair_X % NUM_HEADS
    dim_D = tl.arange(0, BLOCK_DIM)
    real_XD = (row_X < num_rows)[:, None] & (dim_D < HEAD_DIM)[None, :]
    x_at_X = x_ptr + row_X * x_row + head_X * x_head
    x_XD = tl.load(x_at_X[:, None] + dim_D[None, :], mask=real_XD)
    out_at_XD = out_ptr + (pair_X * HEAD_DIM)[:, None] + dim_D[None, :]
    tl.store(out_at_XD, _rounded(x_XD, tl.load(scales_ptr + head_X)[:, None]), mask=real_XD)


def narrow(x: Tensor, scales: Tensor) -> Tensor:
    """As `genrec_kernels.fp8_pages.narrow`; the last axis must be contiguous."""
    num_rows, num_heads, head_dim = x.shape
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    if num_rows:
        block_dim = triton.next_power_of_2(head_dim)
        block_rows = max(1, ELEMENTS // block_dim)
        _narrow[(triton.cdiv(num_rows * num_heads, block_rows),)](
            x, scales, out, num_rows, x.stride(0), x.stride(1),
            NUM_HEADS=num_heads, HEAD_DIM=head_dim, BLOCK_DIM=block_dim, BLOCK_ROWS=block_rows,
            num_warps=4,
        )  # fmt: skip
    return out
