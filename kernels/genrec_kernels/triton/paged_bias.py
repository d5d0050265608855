"""Makes the bias matrix of paged attention, in Triton.

Letters in shapes: L keys of a program, R new rows that one looks at together.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.dispatch import interpreting
from genrec_kernels.fp8_layout import LARGEST_BIAS
from genrec_kernels.paged_bias import PagedBias, num_columns
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.paged_scores import half_bias

#: Keys that one program takes.
BLOCK = 512
_ROWS = tl.constexpr(128)
_LARGEST = tl.constexpr(LARGEST_BIAS)


@triton.jit
def _request_of_row(offsets_ptr, row, num_requests):
    """The last request that starts at `row` or before: those that have no rows come earlier."""
    count = 0
    for first in range(0, num_requests, 256):
        index = first + tl.arange(0, 256)
        start = tl.load(offsets_ptr + index, mask=index < num_requests, other=0x7FFFFFFF)
        count += tl.sum((start <= row).to(tl.int32))
    return count - 1


@triton.jit
def _differing(limits_ptr, times_ptr, row, last):
    """How many rows from `row` to `last` have another limit or time than `row`."""
    limit = tl.load(limits_ptr + row)
    time = tl.load(times_ptr + row)
    count = 0
    for first in range(row, last, _ROWS):
        row_R = first + tl.arange(0, _ROWS)
        real_R = row_R < last
        other_R = tl.load(limits_ptr + row_R, mask=real_R, other=0) != limit
        other_R |= tl.load(times_ptr + row_R, mask=real_R, other=0) != time
        count += tl.sum((other_R & real_R).to(tl.int32))
    return count


@triton.jit
def _times_of_keys(
    page_times_ptr, table_ptr, request, key_L, limit, times_page, times_row, table_row,
    PAGE: tl.constexpr,
):  # fmt: skip
    """Times of a request's keys before `limit`; 0 past it, where its page table may end."""
    real_L = key_L < limit
    table_ptr += request.to(tl.int64) * table_row
    page_L = tl.load(table_ptr + key_L // PAGE, mask=real_L, other=0)
    times_at_L = page_times_ptr + page_L.to(tl.int64) * times_page + (key_L % PAGE) * times_row
    return tl.load(times_at_L, mask=real_L, other=0)


@triton.jit
def _store(matrix_ptr, bias_L, mask_L):
    """Float16 is for scores in half precision, which have room for so much."""
    if matrix_ptr.dtype.element_ty == tl.float16:
        bias_L = tl.clamp(bias_L, -_LARGEST, _LARGEST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(matrix_ptr, bias_L.to(matrix_ptr.dtype.element_ty), mask=mask_L)


@triton.jit
def _store_own(position_ptr, time_table_ptr, own_ptr, scale):
    """The first program's work beside its block."""
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        own = tl.load(position_ptr).to(tl.float32) + tl.load(time_table_ptr).to(tl.float32)
        tl.store(own_ptr, scale * own)


@triton.jit
def bias_of_requests(
    page_times_ptr, table_ptr, offsets_ptr, limits_ptr, row_times_ptr,
    position_ptr, time_table_ptr, bound_ptr, matrix_ptr, own_ptr,
    times_page, times_row, table_row, matrix_row,
    num_positions, num_buckets, scale,
    BLOCK: tl.constexpr, PAGE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """One block of keys of one request, see `paged_bias`; NaN where its rows differ."""
    _store_own(position_ptr, time_table_ptr, own_ptr, scale)
    request = tl.program_id(0)
    row = tl.load(offsets_ptr + request).to(tl.int32)
    last = tl.load(offsets_ptr + request + 1).to(tl.int32)
    if row >= last:
        return
    factor = 2 * scale
    if _differing(limits_ptr, row_times_ptr, row, last) > 0:
        factor = float("nan")
    limit = tl.load(limits_ptr + row).to(tl.int32)
    first = tl.program_id(1) * BLOCK
    if first >= limit:
        return
    key_L = first + tl.arange(0, BLOCK)
    times_L = _times_of_keys(
        page_times_ptr, table_ptr, request, key_L, limit, times_page, times_row, table_row, PAGE
    )
    half_L = half_bias(
        limit - key_L, tl.load(row_times_ptr + row) - times_L,
        position_ptr, time_table_ptr, bound_ptr, num_positions, num_buckets, ASM,
    )  # fmt: skip
    out_ptr = matrix_ptr + request.to(tl.int64) * matrix_row
    _store(out_ptr + key_L, half_L * factor, (key_L < limit) & (key_L < matrix_row))


@triton.jit(do_not_specialize=["num_requests"])
def bias_of_rows(
    page_times_ptr, table_ptr, offsets_ptr, limits_ptr, row_times_ptr,
    position_ptr, time_table_ptr, bound_ptr, matrix_ptr, own_ptr,
    times_page, times_row, table_row, matrix_row,
    num_requests, num_positions, num_buckets, scale,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, PAGE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """One block of keys of some rows, see `paged_bias`: they share the look-up of their keys."""
    _store_own(position_ptr, time_table_ptr, own_ptr, scale)
    begin = tl.program_id(0) * ROWS
    last = tl.minimum(begin + ROWS, tl.load(offsets_ptr + num_requests)).to(tl.int32)
    if begin >= last:
        return
    row_R = begin + tl.arange(0, ROWS)
    limit_R = tl.load(limits_ptr + row_R, mask=row_R < last, other=0).to(tl.int32)
    first = tl.program_id(1) * BLOCK
    if first >= tl.max(limit_R):
        return
    key_L = first + tl.arange(0, BLOCK)
    end = begin
    times_L = tl.zeros([BLOCK], tl.int64)
    for row in range(begin, last):
        if row >= end:
            request = _request_of_row(offsets_ptr, row, num_requests)
            end = tl.load(offsets_ptr + request + 1).to(tl.int32)
            # Of the request alone: another one's table may be longer.
            most = tl.max(tl.where((row_R >= row) & (row_R < end), limit_R, 0))
            times_L = _times_of_keys(
                page_times_ptr, table_ptr, request, key_L, most,
                times_page, times_row, table_row, PAGE,
            )  # fmt: skip
        limit = tl.load(limits_ptr + row).to(tl.int32)
        half_L = half_bias(
            limit - key_L, tl.load(row_times_ptr + row) - times_L,
            position_ptr, time_table_ptr, bound_ptr, num_positions, num_buckets, ASM,
        )  # fmt: skip
        out_ptr = matrix_ptr + tl.cast(row, tl.int64) * matrix_row
        mask_L = (key_L < limit) & (key_L < matrix_row)
        _store(out_ptr + key_L, half_L * (2 * scale), mask_L)


def _rows_of_program(num_rows: int) -> int:
    """More rows share a look-up where there are programs enough, measured on an H200."""
    return 1 if num_rows < 512 else 4 if num_rows < 2048 else 8


def paged_bias(
    bias: RelativeBias,
    *,
    timestamp_pages: Tensor,
    page_table: Tensor,
    row_offsets: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    max_keys: int,
    same_bias: bool,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> PagedBias:
    """As `genrec_kernels.reference.paged_bias`."""
    num_requests = row_offsets.shape[0] - 1
    lines = num_requests if same_bias else key_limits.shape[0]
    matrix = torch.empty((lines, num_columns(max_keys)), dtype=dtype, device=timestamps.device)
    own = torch.empty(1, dtype=torch.float32, device=timestamps.device)
    pointers = (
        timestamp_pages, page_table, row_offsets, key_limits, timestamps, *bias, matrix, own,
        timestamp_pages.stride(0), timestamp_pages.stride(1), page_table.stride(0),
        matrix.stride(0),
    )  # fmt: skip
    counts = (bias.position.shape[0], bias.time.shape[0], scale)
    options = {"BLOCK": BLOCK, "PAGE": timestamp_pages.shape[1], "ASM": not interpreting()}
    blocks = triton.cdiv(max(max_keys, 1), BLOCK)
    if same_bias:
        bias_of_requests[(lines, blocks)](*pointers, *counts, **options, num_warps=4)
    else:
        rows = _rows_of_program(lines)
        grid = (triton.cdiv(lines, rows), blocks)
        bias_of_rows[grid](*pointers, num_requests, *counts, ROWS=rows, **options, num_warps=4)
    return PagedBias(matrix, own)
