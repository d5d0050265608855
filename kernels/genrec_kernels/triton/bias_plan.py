"""What the attention kernels need to know of times, once a batch, and of tables, once a layer.

Suffixes of tensors: N rows or table entries of a program, K blocks of keys, C cells, B buckets.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels import plan_blocks
from genrec_kernels.triton.hstu_tile import MOST_STEPS, TIME_CELLS

FARTHEST = tl.constexpr(plan_blocks.FARTHEST)
_BLOCK = tl.constexpr(plan_blocks.BLOCK_ROWS)
_EDGE = tl.constexpr(plan_blocks.EDGE_BLOCKS)
_UNORDERED = tl.constexpr(plan_blocks.UNORDERED)
_NEVER_SEEN = tl.constexpr(plan_blocks.NEVER_SEEN)
#: 1 / LOG_BUCKET_WIDTH on the base-2 axis.
BUCKETS_PER_OCTAVE = tl.constexpr(0.6931471805599453 / 0.301)


@triton.jit
def exact_bucket(seconds, boundaries_ptr, num_buckets):
    """Buckets of time differences >= 0 (int32), as `relative_bias.time_bucket`."""
    log = tl.log2(tl.maximum(seconds, 1).to(tl.float32)) * BUCKETS_PER_OCTAVE
    bucket = tl.minimum(log.to(tl.int32), num_buckets - 1)
    bucket += (seconds >= tl.load(boundaries_ptr + bucket + 1)).to(tl.int32)
    return bucket - (seconds < tl.load(boundaries_ptr + bucket)).to(tl.int32)


@triton.jit
def plan_tables(
    position_ptr,
    time_ptr,
    boundaries_ptr,
    pairs_ptr,
    cells_ptr,
    num_positions,
    num_buckets,
    scale,
    N: tl.constexpr,
):
    """The tables of a layer as the attention kernels read them, times `scale`.

    Args:
        position_ptr, time_ptr: float32 [num_positions], [num_buckets].
        boundaries_ptr: int64 [num_buckets + 1].
        pairs_ptr: to float32 [num_positions + 1, 2], see `half_position_bias`, for
            which `scale` is a half.
        cells_ptr: to int32 [TIME_CELLS + num_buckets + MOST_STEPS, 4], see `half_time_bias` and
            `add_half_time_bias`.
    """
    part_N = tl.arange(0, N)
    distance_N = tl.program_id(0) * N + part_N
    mask_N = distance_N <= num_positions
    here_N = tl.minimum(distance_N, num_positions - 1)
    less_N = tl.minimum(tl.maximum(distance_N - 1, 0), num_positions - 1)
    tl.store(pairs_ptr + 2 * distance_N, scale * tl.load(position_ptr + here_N), mask=mask_N)
    tl.store(pairs_ptr + 2 * distance_N + 1, scale * tl.load(position_ptr + less_N), mask=mask_N)
    if tl.program_id(0) == 0:
        cell_C = tl.arange(0, 256)
        octave_C = (tl.maximum(cell_C - 1, 0) >> 3).to(tl.int64)
        eighths_C = 8 + (tl.maximum(cell_C - 1, 0) & 7).to(tl.int64)
        least_C = ((eighths_C << octave_C) + 7) >> 3
        after_C = (((eighths_C + 1) << octave_C) + 7) >> 3
        least_C = tl.where(cell_C == 0, 0, least_C)
        last_C = tl.where(cell_C == 0, 0, tl.maximum(after_C - 1, least_C))
        mask_C = cell_C < TIME_CELLS
        least_C = tl.where(mask_C, least_C, 0).to(tl.int32)
        last_C = tl.where(mask_C, last_C, 0).to(tl.int32)
        bucket_C = exact_bucket(last_C, boundaries_ptr, num_buckets)
        begin_C = tl.load(boundaries_ptr + bucket_C).to(tl.int32)
        before_C = exact_bucket(least_C, boundaries_ptr, num_buckets)
        before_C = scale * tl.load(time_ptr + before_C)
        from_C = scale * tl.load(time_ptr + bucket_C)
        entry_C = cells_ptr + 4 * cell_C
        tl.store(entry_C, begin_C, mask=mask_C)
        tl.store(entry_C + 1, before_C.to(tl.int32, bitcast=True), mask=mask_C)
        tl.store(entry_C + 2, from_C.to(tl.int32, bitcast=True), mask=mask_C)
        tl.store(entry_C + 3, least_C, mask=mask_C)

        bucket_B = tl.arange(0, 128)
        next_B = tl.minimum(bucket_B + 1, num_buckets - 1)
        half_B = scale * tl.load(time_ptr + tl.minimum(bucket_B, num_buckets - 1))
        next_half_B = scale * tl.load(time_ptr + next_B)
        begin_B = tl.load(boundaries_ptr + next_B).to(tl.int32)
        begin_B = tl.where(bucket_B + 1 < num_buckets, begin_B, 0x7FFFFFFF)
        entry_B = cells_ptr + 4 * (TIME_CELLS + bucket_B)
        mask_B = bucket_B < num_buckets + MOST_STEPS
        tl.store(entry_B, begin_B, mask=mask_B)
        tl.store(entry_B + 1, half_B.to(tl.int32, bitcast=True), mask=mask_B)
        tl.store(entry_B + 2, next_half_B.to(tl.int32, bitcast=True), mask=mask_B)
        step_B = next_half_B - half_B
        tl.store(entry_B + 3, step_B.to(tl.int32, bitcast=True), mask=mask_B)


@triton.jit
def plan_seconds(
    times_ptr,
    offsets_ptr,
    seconds_ptr,
    extents_ptr,
    num_blocks,
    N: tl.constexpr,
):
    """Times as int32, and their bounds in each block of rows of a sequence.

    Args:
        times_ptr: int64 [R]. Each sequence's times are taken from the middle of its times: what
            is within 2^31 seconds (68 years) fits, the rest is cut.
        seconds_ptr: to int32 [R].
        extents_ptr: to int32 [B, num_blocks, 2].
    """
    sequence = tl.program_id(1)
    start = tl.load(offsets_ptr + sequence)
    num_rows = (tl.load(offsets_ptr + sequence + 1) - start).to(tl.int32)
    times_ptr += start
    part_N = tl.arange(0, N)
    if tl.program_id(0) * N < num_rows:
        earliest_N = tl.load(times_ptr + tl.minimum(part_N, num_rows - 1))
        latest_N = earliest_N
        for first in range(N, num_rows, N):
            time_N = tl.load(times_ptr + tl.minimum(first + part_N, num_rows - 1))
            earliest_N = tl.minimum(earliest_N, time_N)
            latest_N = tl.maximum(latest_N, time_N)
        middle = (tl.min(earliest_N) >> 1) + (tl.max(latest_N) >> 1)

        row_N = tl.program_id(0) * N + part_N
        apart_N = tl.load(times_ptr + tl.minimum(row_N, num_rows - 1)) - middle
        apart_N = tl.where(apart_N > FARTHEST, FARTHEST, apart_N)
        seconds_N = tl.where(apart_N < -FARTHEST, -FARTHEST, apart_N).to(tl.int32)
        tl.store(seconds_ptr + start + row_N, seconds_N, mask=row_N < num_rows)

        seconds_KR = tl.reshape(seconds_N, [N // _BLOCK, _BLOCK])
        block_K = tl.program_id(0) * (N // _BLOCK) + tl.arange(0, N // _BLOCK)
        entry_K = extents_ptr + 2 * (sequence * num_blocks + block_K)
        tl.store(entry_K, tl.min(seconds_KR, 1), mask=block_K < num_blocks)
        tl.store(entry_K + 1, tl.max(seconds_KR, 1), mask=block_K < num_blocks)


@triton.jit
def plan_buckets(
    offsets_ptr,
    extents_ptr,
    boundaries_ptr,
    buckets_ptr,
    num_blocks,
    num_buckets,
    K: tl.constexpr,
):
    """For each block of scores, the least and the greatest bucket of its time differences.

    Args:
        extents_ptr: int32 [B, num_blocks, 2], bounds of the times of each block of rows.
        buckets_ptr: to int16 [B, num_blocks, num_blocks], see `TimePlan`.
        K: blocks of keys that are handled at a time.
    """
    row_block = tl.program_id(0)
    sequence = tl.program_id(1)
    num_rows = (tl.load(offsets_ptr + sequence + 1) - tl.load(offsets_ptr + sequence)).to(tl.int32)
    real_blocks = (num_rows + _BLOCK - 1) // _BLOCK
    if row_block >= (real_blocks + _EDGE - 1) // _EDGE * _EDGE:
        return
    extents_ptr += 2 * sequence * num_blocks
    place = sequence.to(tl.int64) * num_blocks + row_block
    buckets_ptr += place * num_blocks
    real_row = tl.minimum(row_block, real_blocks - 1)
    q_first = tl.load(extents_ptr + 2 * real_row)
    q_last = tl.load(extents_ptr + 2 * real_row + 1)
    end = (row_block // _EDGE + 1) * _EDGE
    for first in range(0, end, K):
        key_K = first + tl.arange(0, K)
        real_K = tl.minimum(key_K, real_row)
        k_first_K = tl.load(extents_ptr + 2 * real_K)
        k_last_K = tl.load(extents_ptr + 2 * real_K + 1)
        least_K = tl.maximum(q_first - k_last_K, 0)
        most_K = tl.maximum(q_last - k_first_K, 0)
        low_K = exact_bucket(least_K, boundaries_ptr, num_buckets)
        high_K = exact_bucket(most_K, boundaries_ptr, num_buckets)
        entry_K = tl.where(q_first >= k_last_K, high_K * 256 + low_K, _UNORDERED)
        seen_K = (key_K <= row_block) & (row_block < real_blocks)
        entry_K = tl.where(seen_K, entry_K, _NEVER_SEEN)
        tl.store(buckets_ptr + key_K, entry_K.to(tl.int16), mask=key_K < end)
