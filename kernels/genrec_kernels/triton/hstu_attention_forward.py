"""Forward of jagged HSTU attention.

Suffixes of tensors: M query rows of a tile, N key rows of a tile, D width of a head.
Sequences of `offsets` hold `histories` history rows each, then candidates.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels.triton.hstu_tile import (
    add_half_time_bias,
    dot,
    half_position_bias,
    key_tiles,
    load_bucket,
    masked_tile,
    program_place,
    row_limits,
    silu_of_half,
    tile_buckets,
    visible,
)
from genrec_kernels.triton.load_apart import load_apart


@triton.jit(do_not_specialize=["num_sequence_heads", "num_row_tiles", "group", "num_blocks"])
def hstu_attention_forward(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    k_tiles,
    v_tiles,
    offsets_ptr,
    histories_ptr,
    limits_ptr,
    seconds_ptr,
    buckets_ptr,
    pairs_ptr,
    cells_ptr,
    q_row_stride,
    q_head_stride,
    k_row_stride,
    k_head_stride,
    v_row_stride,
    v_head_stride,
    num_sequence_heads,
    num_row_tiles,
    group,
    num_positions,
    num_blocks,
    window,
    half_alpha,
    inverse_norm,
    H: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    DK_TILE: tl.constexpr,
    DV_TILE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    CLAMP: tl.constexpr,
    TMA: tl.constexpr,
    FAST: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """One tile of M rows of one head.

    With TMA, tiles that need no mask come through the descriptors `k_tiles` and `v_tiles` of
    k and v seen as [R, H·D].
    """
    sequence_head, row_tile = program_place(
        tl.program_id(0), num_sequence_heads, num_row_tiles, group
    )
    sequence = sequence_head // H
    head = sequence_head % H
    start = tl.load(offsets_ptr + sequence)
    num_rows = (tl.load(offsets_ptr + sequence + 1) - start).to(tl.int32)
    first_row = row_tile * M
    if first_row >= num_rows:
        return
    num_history = tl.load(histories_ptr + sequence).to(tl.int32)
    q_ptr += start * q_row_stride + head * q_head_stride
    k_ptr += start * k_row_stride + head * k_head_stride
    v_ptr += start * v_row_stride + head * v_head_stride
    out_ptr += start * (H * DV) + head * DV
    limits_ptr += start
    if HAS_BIAS:
        seconds_ptr += start
        buckets_ptr += sequence.to(tl.int64) * num_blocks * num_blocks

    row_M = first_row + tl.arange(0, M)
    tile_N = tl.arange(0, N)
    dk_D = tl.arange(0, DK_TILE)
    dv_D = tl.arange(0, DV_TILE)
    q_mask_MD = (row_M < num_rows)[:, None] & (dk_D < DK)[None, :]
    q_MD = tl.load(q_ptr + row_M[:, None] * q_row_stride + dk_D[None, :], mask=q_mask_MD, other=0.0)
    limit_M, min_limit, max_limit = row_limits(limits_ptr, row_M, num_rows, num_history)

    if HAS_BIAS:
        q_sec_M = tl.load(seconds_ptr + tl.minimum(row_M, num_rows - 1))

    full_begin, full_end, begin, end, own_begin, own_end = key_tiles(
        first_row, num_rows, num_history, min_limit, max_limit, window, M, N, HAS_WINDOW
    )
    acc_MD = tl.zeros([M, DV_TILE], tl.float32)
    zero_MN = tl.zeros([M, N], tl.float32)

    for first_key in tl.range(full_begin * N, full_end * N, N):
        key_N = first_key + tile_N
        if TMA:
            flat_row = start.to(tl.int32) + first_key
            k_ND = k_tiles.load([flat_row, head * DK])
        else:
            k_ND = tl.load(
                k_ptr + key_N[:, None] * k_row_stride + dk_D[None, :],
                mask=None if DK == DK_TILE else (dk_D < DK)[None, :] & (key_N >= 0)[:, None],
                other=None if DK == DK_TILE else 0.0,
            )
        if HAS_BIAS:
            low, high = tile_buckets(buckets_ptr, first_row, first_key, num_blocks, M, N)
            begin_sec, base, after = load_bucket(cells_ptr, low, INTERPRETED)
            k_sec_N = load_apart(seconds_ptr + key_N, not INTERPRETED)
            bias_MN = half_position_bias(
                limit_M[:, None], key_N[None, :], pairs_ptr, num_positions, True, CLAMP, INTERPRETED
            )
            bias_MN = add_half_time_bias(
                bias_MN,
                q_sec_M[:, None],
                k_sec_N[None, :],
                low,
                high,
                begin_sec,
                base,
                after,
                cells_ptr,
                INTERPRETED,
            )
        half_MN = dot(q_MD, tl.trans(k_ND), zero_MN, INTERPRETED) * half_alpha
        if HAS_BIAS:
            half_MN += bias_MN
        weight_MN = silu_of_half(half_MN, FAST)
        if TMA:
            v_ND = v_tiles.load([flat_row, head * DV])
        else:
            v_ND = tl.load(
                v_ptr + key_N[:, None] * v_row_stride + dv_D[None, :],
                mask=None if DV == DV_TILE else (dv_D < DV)[None, :] & (key_N >= 0)[:, None],
                other=None if DV == DV_TILE else 0.0,
            )
        acc_MD = dot(weight_MN.to(v_ND.dtype), v_ND, acc_MD, INTERPRETED)

    num_masked = (full_begin - begin) + (end - full_end) + (own_end - own_begin)
    for step in tl.range(0, num_masked):
        first_key = N * masked_tile(step, full_begin, full_end, begin, end, own_begin)
        key_N = first_key + tile_N
        real_N1 = (key_N < num_rows)[:, None]
        k_ND = tl.load(
            k_ptr + key_N[:, None] * k_row_stride + dk_D[None, :],
            mask=real_N1 & (dk_D < DK)[None, :],
            other=0.0,
        )
        half_MN = dot(q_MD, tl.trans(k_ND), zero_MN, INTERPRETED) * half_alpha
        if HAS_BIAS:
            low, high = tile_buckets(buckets_ptr, first_row, first_key, num_blocks, M, N)
            k_sec_N = load_apart(seconds_ptr + tl.minimum(key_N, num_rows - 1), not INTERPRETED)
            half_MN = add_half_time_bias(
                half_MN,
                q_sec_M[:, None],
                k_sec_N[None, :],
                low,
                high,
                *load_bucket(cells_ptr, low, INTERPRETED),
                cells_ptr,
                INTERPRETED,
            )
            half_MN += half_position_bias(
                limit_M[:, None], key_N[None, :], pairs_ptr, num_positions, True, True, INTERPRETED
            )
        seen_MN = visible(limit_M[:, None], row_M[:, None], key_N[None, :], window, HAS_WINDOW)
        weight_MN = tl.where(seen_MN, silu_of_half(half_MN, FAST), 0.0)
        v_ND = tl.load(
            v_ptr + key_N[:, None] * v_row_stride + dv_D[None, :],
            mask=real_N1 & (dv_D < DV)[None, :],
            other=0.0,
        )
        acc_MD = dot(weight_MN.to(v_ND.dtype), v_ND, acc_MD, INTERPRETED)

    out_mask_MD = (row_M < num_rows)[:, None] & (dv_D < DV)[None, :]
    tl.store(
        out_ptr + row_M[:, None] * (H * DV) + dv_D[None, :],
        (acc_MD * inverse_norm).to(out_ptr.dtype.element_ty),
        mask=out_mask_MD,
    )
