"""Writing rows into a paged cache, in Triton: keys, values and times in one pass.

Letters in shapes: X (row, head) pairs of a program, D head width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

#: Elements of keys (and of values) that one program writes.
ELEMENTS = 2048


@triton.jit(do_not_specialize=["num_rows"])
def _write(
    k_ptr, v_ptr, slots_ptr, times_ptr, kv_ptr, page_times_ptr, num_rows,
    k_row, k_head, v_row, v_head, kv_page, kv_head, kv_row, times_page, times_row,
    NUM_HEADS: tl.constexpr, BLOCK_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, PAGE: tl.constexpr,
    HAS_TIMES: tl.constexpr,
):  # fmt: skip
    pair_X = tl.arange(0, BLOCK_ROWS * BLOCK_HEADS)
    row_X = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + pair_X // BLOCK_HEADS
    head_X = pair_X % BLOCK_HEADS
    dim_D = tl.arange(0, BLOCK_DIM)
    real_X = (row_X < num_rows) & (head_X < NUM_HEADS)
    slot_X = tl.load(slots_ptr + row_X, mask=real_X, other=-1).to(tl.int64)
    real_X = real_X & (slot_X >= 0)
    page_X, place_X = slot_X // PAGE, slot_X % PAGE
    real_XD = real_X[:, None] & (dim_D[None, :] < HEAD_DIM)

    k_at_X = k_ptr + row_X * k_row + head_X * k_head
    v_at_X = v_ptr + row_X * v_row + head_X * v_head
    k_XD = tl.load(k_at_X[:, None] + dim_D[None, :], mask=real_XD)
    v_XD = tl.load(v_at_X[:, None] + dim_D[None, :], mask=real_XD)
    kv_at_X = kv_ptr + page_X * kv_page + head_X * kv_head + place_X * kv_row
    kv_at_XD = kv_at_X[:, None] + dim_D[None, :]
    tl.store(kv_at_XD, k_XD.to(kv_ptr.dtype.element_ty), mask=real_XD)
    tl.store(kv_at_XD + HEAD_DIM, v_XD.to(kv_ptr.dtype.element_ty), mask=real_XD)
    if HAS_TIMES:
        once_X = real_X & (head_X == 0)
        time_X = tl.load(times_ptr + row_X, mask=once_X)
        tl.store(page_times_ptr + page_X * times_page + place_X * times_row, time_X, mask=once_X)


def time_arguments(
    slots: Tensor, timestamps: Tensor | None, timestamp_pages: Tensor | None
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Times, their pages and the strides of these for a kernel; `slots` for none."""
    if timestamps is None or timestamp_pages is None:
        return slots, slots, (0, 0)
    return timestamps, timestamp_pages, (timestamp_pages.stride(0), timestamp_pages.stride(1))


def page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    *,
    kv_pages: Tensor,
    timestamps: Tensor | None,
    timestamp_pages: Tensor | None,
) -> None:
    """As `genrec_kernels.page_write`, for pages of 16 or 32 bits.

    Last axes of k, v and kv_pages must be contiguous.
    """
    num_rows, num_heads, head_dim = k.shape
    if num_rows == 0:
        return
    times, time_pages, time_strides = time_arguments(slots, timestamps, timestamp_pages)
    block_heads, block_dim = (triton.next_power_of_2(n) for n in (num_heads, head_dim))
    block_rows = max(1, ELEMENTS // (block_heads * block_dim))
    _write[(triton.cdiv(num_rows, block_rows),)](
        k, v, slots, times, kv_pages, time_pages, num_rows,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1),
        kv_pages.stride(0), kv_pages.stride(1), kv_pages.stride(2), *time_strides,
        NUM_HEADS=num_heads, BLOCK_HEADS=block_heads, HEAD_DIM=head_dim, BLOCK_DIM=block_dim,
        BLOCK_ROWS=block_rows, PAGE=kv_pages.shape[2], HAS_TIMES=times is not slots,
        num_warps=4,
    )  # fmt: skip
