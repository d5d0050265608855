"""What the HSTU attention kernels do to one tile of scores: SiLU, mask, relative bias.

Suffixes of tensors: M query rows of a tile, N key rows of a tile, D width of a head.

Scores are kept halved, as SiLU is cheapest so: ``silu(2h) = h + h·tanh(h)``, one special-function
instruction per score instead of two.
"""

# mypy: ignore-errors
# Triton compiles these functions from their source; Python's types say nothing about them.

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels import plan_blocks
from genrec_kernels.triton.load_apart import load_apart

TIME_CELLS = tl.constexpr(plan_blocks.TIME_CELLS)
MOST_STEPS = tl.constexpr(plan_blocks.MOST_STEPS)
_BLOCK = tl.constexpr(plan_blocks.BLOCK_ROWS)


@triton.jit
def tanh_approx(x):
    """Error up to 5e-4 (2^-11), far below a bfloat16's."""
    return tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def silu_of_half(half, FAST: tl.constexpr):
    """``silu(2·half)``."""
    if FAST:
        return half + half * tanh_approx(half)
    else:
        return 2.0 * half * tl.sigmoid(2.0 * half)


@triton.jit
def silu_and_slope_of_half(half, FAST: tl.constexpr):
    """``silu(2·half)`` and its derivative by ``2·half``."""
    if FAST:
        sigmoid = 0.5 + 0.5 * tanh_approx(half)
    else:
        sigmoid = tl.sigmoid(2.0 * half)
    silu = 2.0 * half * sigmoid
    return silu, sigmoid + silu * (1.0 - sigmoid)


@triton.jit
def dot(a, b, acc, INTERPRETED: tl.constexpr):
    """``a @ b + acc`` in float32. Triton's interpreter gets 16-bit products wrong: widen them."""
    if INTERPRETED:
        return acc + tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def half_time_bias(apart, cells_ptr, INTERPRETED: tl.constexpr):
    """Half of the time bias, float32, of time differences (int32, any shape), exactly.

    A float's exponent and first three mantissa bits tell which of 8 cells an octave holds the
    difference. Buckets are wider than cells, so a cell holds at most one boundary, to which the
    integer itself is compared.

    Args:
        cells_ptr: int32 [TIME_CELLS, 4], from `plan_tables`: a boundary, the bits of the half
            bias before and from it, the smallest difference of the cell.
    """
    if INTERPRETED:
        apart = tl.abs(apart)
        cell = (apart.to(tl.float32).to(tl.int32, bitcast=True) >> 20) - 1015
        cell = tl.maximum(cell, 0)
        # The instruction below rounds to zero; here a large difference may round to the next.
        cell -= (tl.load(cells_ptr + 4 * cell + 3) > apart).to(tl.int32)
        late = apart >= tl.load(cells_ptr + 4 * cell)
        return tl.load(cells_ptr + 4 * cell + 1 + late.to(tl.int32)).to(tl.float32, bitcast=True)
    else:
        # A difference of 0 takes the cell of 1: no boundary lies between. One load of the whole
        # entry costs the cache less than two that wait for each other.
        return tl.inline_asm_elementwise(
            """{
            .reg .b32 apart, cell, begin, least;
            .reg .f32 rounded, before, after;
            .reg .u64 address;
            .reg .pred late;
            cvt.rz.f32.s32 rounded, $2;
            abs.f32 rounded, rounded;
            max.f32 rounded, rounded, 0f3F800000;
            mov.b32 cell, rounded;
            shr.u32 cell, cell, 20;
            mad.wide.s32 address, cell, 16, $1;
            ld.global.nc.v4.b32 {begin, before, after, least}, [address + -16240];
            abs.s32 apart, $2;
            setp.ge.s32 late, apart, begin;
            selp.f32 $0, after, before, late;
            }""",
            "=f,l,r",
            [cells_ptr.to(tl.int64), apart],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def load_bucket(cells_ptr, bucket, INTERPRETED: tl.constexpr):
    """The next bucket's first difference, half the bias of a bucket, and half that of the next.

    Branches wait for what they load, so these are loaded before them.
    """
    entry_ptr = cells_ptr + 4 * (TIME_CELLS + bucket)
    base = load_apart(entry_ptr + 1, not INTERPRETED).to(tl.float32, bitcast=True)
    after = load_apart(entry_ptr + 2, not INTERPRETED).to(tl.float32, bitcast=True)
    return load_apart(entry_ptr, not INTERPRETED), base, after


@triton.jit
def add_half_time_bias(
    half, q_sec, k_sec, low, high, begin, base, after, cells_ptr, INTERPRETED: tl.constexpr
):
    """Halved scores [A, B] plus half of the time bias.

    Works on the scores themselves, which keeps everything in the layout that the matrix product
    left them in. Most tiles' time differences lie in one or two buckets: there the bias is a
    number, or one comparison. Only where they cross many boundaries is it looked up.

    Args:
        q_sec, k_sec: int32 [A, 1] and [1, B] or the other way round: seconds from any one time.
        low, high: from `tile_buckets`.
        begin, base, after: from `load_bucket` of `low`.
        cells_ptr: int32 [.., 4], from `plan_tables`; past `TIME_CELLS` an entry for each bucket:
            where the next begins, the bits of half its bias, of half the next one's, and of how
            much that is more.
    """
    steps = high - low
    if steps > MOST_STEPS:
        half += half_time_bias(q_sec - k_sec, cells_ptr, INTERPRETED)
    elif steps == 0:
        half += base
    elif steps == 1:
        half += tl.where(q_sec - begin >= k_sec, after, base)
    else:
        half += base
        # Boundaries past the tile's last are reached by no difference.
        for i in tl.static_range(MOST_STEPS):
            entry_ptr = cells_ptr + 4 * (TIME_CELLS + low + i)
            step = tl.load(entry_ptr + 3).to(tl.float32, bitcast=True)
            half += tl.where(q_sec - tl.load(entry_ptr) >= k_sec, step, 0.0)
    return half


@triton.jit
def tile_buckets(buckets_ptr, first_row, first_key, num_blocks, M: tl.constexpr, N: tl.constexpr):
    """Least and greatest bucket of the time differences that are seen in an M x N tile.

    Args:
        buckets_ptr: int16 [num_blocks, num_blocks] of the sequence, see `TimePlan`.
    """
    low = 255
    high = 0
    buckets_ptr += first_row // _BLOCK * num_blocks + first_key // _BLOCK
    for i in tl.static_range((M + _BLOCK - 1) // _BLOCK):
        for j in tl.static_range((N + _BLOCK - 1) // _BLOCK):
            entry = tl.load(buckets_ptr + i * num_blocks + j).to(tl.int32)
            low = tl.minimum(low, entry & 255)
            high = tl.maximum(high, (entry >> 8) & 255)
    return tl.minimum(low, high), high


@triton.jit
def half_position_bias(
    limit,
    key,
    pairs_ptr,
    num_positions,
    PAIRS: tl.constexpr,
    CLAMP: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Half of the position bias, float32, of limits and keys that broadcast to a tile.

    Read by instructions, as Triton would load in a layout of its own choice and then move the
    tile through shared memory into the layout of the scores.

    Args:
        pairs_ptr: float32 [num_positions + 1, 2], from `plan_tables`: half of the bias of a
            distance, and of one less.
        PAIRS: neighbours in a thread's registers are neighbouring keys of one row, as they are
            where the scores' columns are keys; one load then serves both.
        CLAMP: distances may lie outside the table.
    """
    distance = limit - key
    if CLAMP:
        distance = tl.minimum(tl.maximum(distance, 0), num_positions)
    if INTERPRETED:
        return tl.load(pairs_ptr + 2 * distance)
    elif PAIRS:
        return tl.inline_asm_elementwise(
            "{ .reg .u64 a; mad.wide.s32 a, $4, 8, $2; ld.global.nc.v2.f32 {$0, $1}, [a]; }",
            "=f,=f,l,l,r,r",
            [pairs_ptr.to(tl.int64), distance],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return tl.inline_asm_elementwise(
            "{ .reg .u64 a; mad.wide.s32 a, $2, 8, $1; ld.global.nc.f32 $0, [a]; }",
            "=f,l,r",
            [pairs_ptr.to(tl.int64), distance],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )


@triton.jit
def row_limits(limits_ptr, row_M, num_rows, num_history):
    """Key limits of a tile's rows, and their smallest and largest.

    Rows beyond the sequence get the largest limit, so that they hold no tile back.
    """
    limit_M = tl.load(limits_ptr + row_M, mask=row_M < num_rows, other=num_history).to(tl.int32)
    limit_M = tl.minimum(tl.minimum(limit_M, row_M), num_history)
    return limit_M, tl.min(limit_M), tl.max(limit_M)


@triton.jit
def visible(limit, row, key, window, HAS_WINDOW: tl.constexpr):
    """bool: the last `window` of the first `limit` keys, and the row itself."""
    seen = key < limit
    if HAS_WINDOW:
        seen = seen & (key >= limit - window)
    return seen | (key == row)


@triton.jit
def key_tiles(
    first_row,
    num_rows,
    num_history,
    min_limit,
    max_limit,
    window,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """Which tiles of keys a tile of rows visits, by index.

    Returns:
        full_begin, full_end: tiles that all rows see wholly.
        begin, end: history tiles that some row sees any of; those not full need a mask.
        own_begin, own_end: tiles past `end` that hold candidates among the rows, which see
            themselves.
    """
    begin = 0
    full_begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(min_limit - window, 0) // N
        full_begin = (tl.maximum(max_limit - window, 0) + N - 1) // N
    full_end = tl.maximum(min_limit // N, full_begin)
    last_row = tl.minimum(first_row + M, num_rows)
    last_own_history = tl.where(first_row < num_history, tl.minimum(last_row, num_history), 0)
    end = tl.maximum((tl.maximum(max_limit, last_own_history) + N - 1) // N, full_end)
    own_begin = tl.maximum(end, tl.maximum(first_row, num_history) // N)
    own_end = tl.maximum((last_row + N - 1) // N, own_begin)
    own_end = tl.where(last_row > num_history, own_end, own_begin)
    return full_begin, full_end, begin, end, own_begin, own_end


@triton.jit
def masked_tile(step, full_begin, full_end, begin, end, own_begin):
    """The step-th tile that needs a mask: before the full ones, after them, then own ones."""
    before = full_begin - begin
    history = before + end - full_end
    tile = tl.where(step < before, begin + step, full_end + step - before)
    return tl.where(step < history, tile, own_begin + step - history)


@triton.jit
def program_place(pid, num_sequence_heads, num_row_tiles, group):
    """Which sequence and head, and which tile of rows, a program computes.

    `group` pairs of sequence and head run side by side, so that their keys and values stay in
    the L2 cache. Within a group the longest work (the last rows) starts first, which leaves the
    short work for the end, when multiprocessors fall idle.
    """
    per_group = group * num_row_tiles
    first = pid // per_group * group
    size = tl.minimum(group, num_sequence_heads - first)
    place = pid % per_group
    return first + place % size, num_row_tiles - 1 - place // size
