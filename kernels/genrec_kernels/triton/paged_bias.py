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
from genrec_kernels.paged_bias import PagedBias, num_columns
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.triton.paged_scores import half_bias

#: Keys that one program takes.
BLOCK = 512
_ROWS = tl.constexpr(128)


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


@triton.jit(do_not_specialize=["num_requests"])
def bias_matrix(
    page_times_ptr, table_ptr, offsets_ptr, limits_ptr, row_times_ptr,
    position_ptr, time_table_ptr, bound_ptr, matrix_ptr, own_ptr,
    times_page, times_row, table_row, matrix_row,
    num_requests, num_positions, num_buckets, scale,
    BLOCK: tl.constexpr, PAGE: tl.constexpr, SAME: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """One block of keys of one row of the matrix, see `paged_bias`."""
    line = tl.program_id(0)
    if (line == 0) & (tl.program_id(1) == 0):
        own = tl.load(position_ptr).to(tl.float32) + tl.load(time_table_ptr).to(tl.float32)
        tl.store(own_ptr, scale * own)
    factor = 2 * scale
    if SAME:
        request = line
        row = tl.load(offsets_ptr + request).to(tl.int32)
        last = tl.load(offsets_ptr + request + 1).to(tl.int32)
        if row >= last:
            return
        if _differing(limits_ptr, row_times_ptr, row, last) > 0:
            factor = float("nan")
    else:
        row = line
        if row >= tl.load(offsets_ptr + num_requests):
            return
        request = _request_of_row(offsets_ptr, row, num_requests)
    limit = tl.load(limits_ptr + row).to(tl.int32)
    first = tl.program_id(1) * BLOCK
    if first >= limit:
        return
    key_L = first + tl.arange(0, BLOCK)
    real_L = (key_L < limit) & (key_L < matrix_row)
    table_ptr += request.to(tl.int64) * table_row
    page_L = tl.load(table_ptr + key_L // PAGE, mask=real_L, other=0)
    times_at_L = page_times_ptr + page_L.to(tl.int64) * times_page + (key_L % PAGE) * times_row
    seconds_L = tl.load(row_times_ptr + row) - tl.load(times_at_L, mask=real_L, other=0)
    half_L = half_bias(
        limit - key_L, seconds_L,
        position_ptr, time_table_ptr, bound_ptr, num_positions, num_buckets, ASM,
    )  # fmt: skip
    tl.store(matrix_ptr + line.to(tl.int64) * matrix_row + key_L, half_L * factor, mask=real_L)


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
) -> PagedBias:
    """As `genrec_kernels.reference.paged_bias`."""
    num_requests = row_offsets.shape[0] - 1
    lines = num_requests if same_bias else key_limits.shape[0]
    matrix = torch.empty(
        (lines, num_columns(max_keys)), dtype=torch.float32, device=timestamps.device
    )
    own = torch.empty(1, dtype=torch.float32, device=timestamps.device)
    bias_matrix[(lines, triton.cdiv(max(max_keys, 1), BLOCK))](
        timestamp_pages, page_table, row_offsets, key_limits, timestamps, *bias, matrix, own,
        timestamp_pages.stride(0), timestamp_pages.stride(1), page_table.stride(0),
        matrix.stride(0), num_requests, bias.position.shape[0], bias.time.shape[0], scale,
        BLOCK=BLOCK, PAGE=timestamp_pages.shape[1], SAME=same_bias, ASM=not interpreting(),
        num_warps=4,
    )  # fmt: skip
    return PagedBias(matrix, own)
