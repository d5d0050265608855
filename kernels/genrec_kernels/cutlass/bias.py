"""Position and time bias of a tile of scores, in a warp group's registers.

Tables come scaled by 1 / alpha, since scores are scaled by alpha after it is added. Which time
buckets a tile of scores spans is known from the time plan (`genrec_kernels.time_plan`): most tiles
take a number, or compare once.

A thread holds the scores of two rows, 8 apart; register ``c + 2·i + 4·j`` is row i, column
``8·j + c`` from the thread's first (PTX ISA, "wgmma: accumulator fragments").
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from genrec_kernels.cutlass.bias_tiles import EDGE
from genrec_kernels.plan_blocks import BLOCK_ROWS, MOST_STEPS, TIME_CELLS


@cute.jit
def fill_bias(
    scores: cute.Tensor,
    tables,
    sequence: Int32,
    start: Int32,
    num_rows: Int32,
    group_row: Int32,
    first_key: Int32,
    column: Int32,
    row_limits: cute.Tensor,
    row_seconds: cute.Tensor,
):
    """Write the bias of a tile of `EDGE` rows and keys; nobody sees that of keys past a row.

    Args:
        scores: float32 registers, `NUMBERS` of them.
        tables: has `seconds` int32 [R], `buckets` int16 [B, blocks, blocks], `pairs` float32
            [P + 1, 2] and `cells` int32 [.., 4], see `time_plan` and `triton.bias_plan`.
        start: the sequence's first row in `seconds`.
        group_row, first_key: first row and key of the tile.
        column: the thread's first column in it.
        row_limits, row_seconds: int32 [2], of the thread's rows.
    """
    farthest = Int32(cute.size(tables.pairs, mode=[0])) - 1
    low, high = _tile_buckets(tables.buckets, sequence, group_row, first_key)
    entry = TIME_CELLS + low
    values = cute.recast_tensor(tables.cells, Float32)
    base = values[entry, 1]
    key = first_key + column
    for i in cutlass.range_constexpr(2):
        for j in cutlass.range_constexpr(EDGE // 8):
            distance = cutlass.min(row_limits[i] - key - 8 * j, farthest)
            distance = cutlass.max(distance, 0)
            pair = cute.make_rmem_tensor(cute.make_layout(2), Float32)
            cute.autovec_copy(tables.pairs[distance, None], pair)
            scores[2 * i + 4 * j] = pair[0] + base
            scores[1 + 2 * i + 4 * j] = pair[1] + base
    if low != high:
        last = num_rows - 1
        key_seconds = cute.make_rmem_tensor(cute.make_layout(EDGE // 4), Int32)
        for j in cutlass.range_constexpr(EDGE // 8):
            for c in cutlass.range_constexpr(2):
                at = cutlass.min(key + 8 * j + c, last)
                key_seconds[2 * j + c] = tables.seconds[start + at]
        steps = high - low
        if steps <= MOST_STEPS:
            for step in cutlass.range(steps, unroll=1):
                begin = tables.cells[entry + step, 0]
                rise = values[entry + step, 3]
                _add_step(scores, row_seconds, key_seconds, begin, rise)
        else:
            _look_up(scores, row_seconds, key_seconds, tables.cells, values, base)


@cute.jit
def _add_step(scores, row_seconds, key_seconds, begin, rise):
    """Add `rise` where a time difference has reached `begin`."""
    for i in cutlass.range_constexpr(2):
        reached = row_seconds[i] - begin
        for j in cutlass.range_constexpr(EDGE // 8):
            for c in cutlass.range_constexpr(2):
                more = Float32(0.0)
                if key_seconds[2 * j + c] <= reached:
                    more = rise
                scores[c + 2 * i + 4 * j] += more


@cute.jit
def _look_up(scores, row_seconds, key_seconds, cells, values, base):
    """Each score's own bucket.

    A float's exponent and first three mantissa bits tell which of 8 cells an octave holds the
    difference. Buckets are wider than cells, so a cell holds at most one boundary, to which the
    integer itself is compared.
    """
    for i in cutlass.range_constexpr(2):
        for j in cutlass.range(EDGE // 8, unroll_full=True):
            for c in cutlass.range_constexpr(2):
                apart = row_seconds[i] - key_seconds[2 * j + c]
                apart = cutlass.max(apart, -apart)
                bits = cute.arch.inline_ptx(
                    "{ .reg .f32 rounded; cvt.rz.f32.s32 rounded, {$r0}; "
                    "max.f32 rounded, rounded, 0f3F800000; mov.b32 {$w0}, rounded; }",
                    write_only_types=[Int32],
                    read_only_args=[apart],
                )
                # A difference of 0 takes the cell of 1: no boundary lies between.
                cell = (bits >> 20) - 1015
                # Apart from each other: loaded as one, the entries cost 6 % more time.
                value = values[cell, 1]
                if apart >= cells[cell, 0]:
                    value = values[cell, 2]
                scores[c + 2 * i + 4 * j] += value - base


@cute.jit
def _tile_buckets(
    buckets: cute.Tensor,
    sequence: Int32,
    first_row: Int32,
    first_key: Int32,
):
    """Least and greatest bucket of the time differences that are seen in a tile."""
    low = Int32(255)
    high = Int32(0)
    for i in cutlass.range_constexpr(EDGE // BLOCK_ROWS):
        for j in cutlass.range_constexpr(EDGE // BLOCK_ROWS):
            entry = Int32(
                buckets[sequence, first_row // BLOCK_ROWS + i, first_key // BLOCK_ROWS + j]
            )
            low = cutlass.min(low, entry & 255)
            high = cutlass.max(high, (entry >> 8) & 255)
    return cutlass.min(low, high), high
