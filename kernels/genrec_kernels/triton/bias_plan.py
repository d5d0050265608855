"""What the attention kernels need to know of times and tables, worked out once a call.

Suffixes of tensors: N rows or table entries of a program, T tiles, C cells, B buckets.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels.triton.hstu_tile import TIME_CELLS

#: Seconds are kept from the middle of a sequence's times, cut to this.
FARTHEST = tl.constexpr(2**30 - 1)
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
    program,
    num_programs,
    num_positions,
    num_buckets,
    N: tl.constexpr,
):
    """The tables as the attention kernels read them, halved.

    Args:
        pairs_ptr: to float32 [num_positions + 1, 2], see `half_position_bias`.
        cells_ptr: to int32 [TIME_CELLS, 4], see `half_time_bias`.
    """
    part_N = tl.arange(0, N)
    for first in range(program * N, num_positions + 1, num_programs * N):
        distance_N = first + part_N
        mask_N = distance_N <= num_positions
        here_N = tl.minimum(distance_N, num_positions - 1)
        less_N = tl.minimum(tl.maximum(distance_N - 1, 0), num_positions - 1)
        tl.store(pairs_ptr + 2 * distance_N, 0.5 * tl.load(position_ptr + here_N), mask=mask_N)
        tl.store(pairs_ptr + 2 * distance_N + 1, 0.5 * tl.load(position_ptr + less_N), mask=mask_N)
    if program == 0:
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
        before_C = 0.5 * tl.load(time_ptr + before_C)
        from_C = 0.5 * tl.load(time_ptr + bucket_C)
        entry_C = cells_ptr + 4 * cell_C
        tl.store(entry_C, begin_C, mask=mask_C)
        tl.store(entry_C + 1, before_C.to(tl.int32, bitcast=True), mask=mask_C)
        tl.store(entry_C + 2, from_C.to(tl.int32, bitcast=True), mask=mask_C)
        tl.store(entry_C + 3, least_C, mask=mask_C)


@triton.jit
def plan_bias(
    times_ptr,
    offsets_ptr,
    position_ptr,
    time_ptr,
    boundaries_ptr,
    seconds_ptr,
    extents_ptr,
    pairs_ptr,
    cells_ptr,
    num_extents,
    num_positions,
    num_buckets,
    N: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Times as int32, their bounds in every `ROWS` rows of a sequence, and the tables.

    Args:
        times_ptr: int64 [R]. Each sequence's times are taken from the middle of its times: what
            is within 2^31 seconds (68 years) fits, the rest is cut.
        position_ptr, time_ptr: float32 [num_positions], [num_buckets].
        boundaries_ptr: int64 [num_buckets + 1].
        seconds_ptr: to int32 [R].
        extents_ptr: to int32 [B, num_extents, 2].
        pairs_ptr, cells_ptr: see `plan_tables`.
    """
    sequence = tl.program_id(1)
    if sequence == 0:
        plan_tables(
            position_ptr,
            time_ptr,
            boundaries_ptr,
            pairs_ptr,
            cells_ptr,
            tl.program_id(0),
            tl.num_programs(0),
            num_positions,
            num_buckets,
            N,
        )
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

        seconds_TR = tl.reshape(seconds_N, [N // ROWS, ROWS])
        place_T = tl.program_id(0) * (N // ROWS) + tl.arange(0, N // ROWS)
        entry_T = extents_ptr + 2 * (sequence * num_extents + place_T)
        tl.store(entry_T, tl.min(seconds_TR, 1), mask=place_T < num_extents)
        tl.store(entry_T + 1, tl.max(seconds_TR, 1), mask=place_T < num_extents)


@triton.jit
def plan_tiles(
    offsets_ptr,
    extents_ptr,
    time_ptr,
    boundaries_ptr,
    tiles_ptr,
    num_extents,
    num_buckets,
    num_row_tiles,
    num_key_tiles,
    ROWS: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
):
    """For each tile of scores, whether its time differences span at most two buckets.

    Args:
        extents_ptr: int32 [B, num_extents, 2], bounds of the times of every `ROWS` rows.
        tiles_ptr: to int32 [B, num_row_tiles, num_key_tiles, 4], see `tile_times`; tiles above
            the diagonal are left out.
        M, N: rows and keys of a tile.
        T: tiles of keys that a program handles at a time.
    """
    row_tile = tl.program_id(0)
    sequence = tl.program_id(1)
    num_rows = (tl.load(offsets_ptr + sequence + 1) - tl.load(offsets_ptr + sequence)).to(tl.int32)
    if row_tile * M >= num_rows:
        return
    extents_ptr += 2 * sequence * num_extents
    tiles_ptr += 4 * (sequence * num_row_tiles + row_tile).to(tl.int64) * num_key_tiles
    last_extent = (num_rows - 1) // ROWS
    first_place = row_tile * M // ROWS
    q_first = tl.load(extents_ptr + 2 * first_place)
    q_last = tl.load(extents_ptr + 2 * first_place + 1)
    for more in tl.static_range(1, (M + ROWS - 1) // ROWS):
        place = tl.minimum(first_place + more, last_extent)
        q_first = tl.minimum(q_first, tl.load(extents_ptr + 2 * place))
        q_last = tl.maximum(q_last, tl.load(extents_ptr + 2 * place + 1))
    tiles_end = (tl.minimum(row_tile * M + M, num_rows) + N - 1) // N
    for first in range(0, tiles_end, T):
        key_T = first + tl.arange(0, T)
        place_T = tl.minimum(key_T * N // ROWS, last_extent)
        k_first_T = tl.load(extents_ptr + 2 * place_T)
        k_last_T = tl.load(extents_ptr + 2 * place_T + 1)
        for more in tl.static_range(1, (N + ROWS - 1) // ROWS):
            more_T = tl.minimum(place_T + more, last_extent)
            k_first_T = tl.minimum(k_first_T, tl.load(extents_ptr + 2 * more_T))
            k_last_T = tl.maximum(k_last_T, tl.load(extents_ptr + 2 * more_T + 1))
        least_T = tl.maximum(q_first - k_last_T, 0)
        most_T = tl.maximum(q_last - k_first_T, 0)
        low_T = exact_bucket(least_T, boundaries_ptr, num_buckets)
        high_T = exact_bucket(most_T, boundaries_ptr, num_buckets)
        # Between equal boundaries of short buckets no integer lies: they are one step.
        low_end_T = tl.load(boundaries_ptr + tl.minimum(low_T + 1, num_buckets - 1))
        two_T = low_end_T == tl.load(boundaries_ptr + high_T)
        few_T = (q_first >= k_last_T) & ((low_T == high_T) | two_T)
        base_T = 0.5 * tl.load(time_ptr + low_T)
        step_T = 0.5 * tl.load(time_ptr + high_T) - base_T
        begin_T = tl.load(boundaries_ptr + high_T).to(tl.int32)
        store_T = tiles_ptr + 4 * key_T
        mask_T = key_T < tiles_end
        tl.store(store_T, 1 - few_T.to(tl.int32), mask=mask_T)
        tl.store(store_T + 1, base_T.to(tl.int32, bitcast=True), mask=mask_T)
        tl.store(store_T + 2, begin_T, mask=mask_T)
        tl.store(store_T + 3, step_T.to(tl.int32, bitcast=True), mask=mask_T)
