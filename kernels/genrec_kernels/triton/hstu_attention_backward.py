"""Backward of jagged HSTU attention: two passes over the scores, each recomputed, no atomics.

One pass gives the gradient of q, a program a tile of query rows; the other those of k and v, a
program a tile of keys. Adding up is in a fixed order, so gradients are the same every time.

Suffixes of tensors: M query rows of a tile, N key rows of a tile, D width of a head.
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
    silu_and_slope_of_half,
    tile_buckets,
    visible,
)
from genrec_kernels.triton.load_apart import load_apart


@triton.jit(do_not_specialize=["num_sequence_heads", "num_row_tiles", "group", "num_blocks"])
def hstu_attention_backward_q(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    grad_q_ptr,
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
    grad_scale,
    H: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    DK_TILE: tl.constexpr,
    DV_TILE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    FAST: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Gradient of M rows of q of one head; `grad_scale` is alpha / N."""
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
    grad_out_ptr += start * (H * DV) + head * DV
    grad_q_ptr += start * (H * DK) + head * DK
    limits_ptr += start
    if HAS_BIAS:
        seconds_ptr += start
        buckets_ptr += sequence.to(tl.int64) * num_blocks * num_blocks

    row_M = first_row + tl.arange(0, M)
    tile_N = tl.arange(0, N)
    dk_D = tl.arange(0, DK_TILE)
    dv_D = tl.arange(0, DV_TILE)
    real_M1 = (row_M < num_rows)[:, None]
    q_mask_MD = real_M1 & (dk_D < DK)[None, :]
    q_MD = tl.load(q_ptr + row_M[:, None] * q_row_stride + dk_D[None, :], mask=q_mask_MD, other=0.0)
    grad_out_MD = tl.load(
        grad_out_ptr + row_M[:, None] * (H * DV) + dv_D[None, :],
        mask=real_M1 & (dv_D < DV)[None, :],
        other=0.0,
    )
    limit_M, min_limit, max_limit = row_limits(limits_ptr, row_M, num_rows, num_history)

    if HAS_BIAS:
        q_sec_M = tl.load(seconds_ptr + tl.minimum(row_M, num_rows - 1))

    _, _, begin, end, own_begin, own_end = key_tiles(
        first_row, num_rows, num_history, min_limit, max_limit, window, M, N, HAS_WINDOW
    )
    grad_q_MD = tl.zeros([M, DK_TILE], tl.float32)
    zero_MN = tl.zeros([M, N], tl.float32)
    # Full tiles are masked too: beside three products the mask costs little.
    for step in tl.range(0, (end - begin) + (own_end - own_begin)):
        first_key = N * masked_tile(step, begin, begin, begin, end, own_begin)
        key_N = first_key + tile_N
        real_N1 = (key_N < num_rows)[:, None]
        k_ND = tl.load(
            k_ptr + key_N[:, None] * k_row_stride + dk_D[None, :],
            mask=real_N1 & (dk_D < DK)[None, :],
            other=0.0,
        )
        v_ND = tl.load(
            v_ptr + key_N[:, None] * v_row_stride + dv_D[None, :],
            mask=real_N1 & (dv_D < DV)[None, :],
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
        grad_weight_MN = dot(grad_out_MD, tl.trans(v_ND), zero_MN, INTERPRETED)
        _weight_MN, slope_MN = silu_and_slope_of_half(half_MN, FAST)
        seen_MN = visible(limit_M[:, None], row_M[:, None], key_N[None, :], window, HAS_WINDOW)
        grad_score_MN = tl.where(seen_MN, grad_weight_MN * slope_MN, 0.0)
        grad_q_MD = dot(grad_score_MN.to(k_ND.dtype), k_ND, grad_q_MD, INTERPRETED)

    tl.store(
        grad_q_ptr + row_M[:, None] * (H * DK) + dk_D[None, :],
        (grad_q_MD * grad_scale).to(grad_q_ptr.dtype.element_ty),
        mask=q_mask_MD,
    )


@triton.jit(do_not_specialize=["num_sequence_heads", "num_key_tiles", "group", "num_blocks"])
def hstu_attention_backward_kv(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    grad_k_ptr,
    grad_v_ptr,
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
    num_key_tiles,
    group,
    num_positions,
    num_blocks,
    window,
    half_alpha,
    inverse_norm,
    grad_scale,
    H: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    DK_TILE: tl.constexpr,
    DV_TILE: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    FAST: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Gradients of N rows of k and v of one head; scores are held transposed, [N, M]."""
    sequence_head, reversed_tile = program_place(
        tl.program_id(0), num_sequence_heads, num_key_tiles, group
    )
    # The first keys are seen by the most rows.
    key_tile = num_key_tiles - 1 - reversed_tile
    sequence = sequence_head // H
    head = sequence_head % H
    start = tl.load(offsets_ptr + sequence)
    num_rows = (tl.load(offsets_ptr + sequence + 1) - start).to(tl.int32)
    first_key = key_tile * N
    if first_key >= num_rows:
        return
    num_history = tl.load(histories_ptr + sequence).to(tl.int32)
    q_ptr += start * q_row_stride + head * q_head_stride
    k_ptr += start * k_row_stride + head * k_head_stride
    v_ptr += start * v_row_stride + head * v_head_stride
    grad_out_ptr += start * (H * DV) + head * DV
    grad_k_ptr += start * (H * DK) + head * DK
    grad_v_ptr += start * (H * DV) + head * DV
    limits_ptr += start
    if HAS_BIAS:
        seconds_ptr += start
        buckets_ptr += sequence.to(tl.int64) * num_blocks * num_blocks

    key_N = first_key + tl.arange(0, N)
    tile_M = tl.arange(0, M)
    dk_D = tl.arange(0, DK_TILE)
    dv_D = tl.arange(0, DV_TILE)
    real_N1 = (key_N < num_rows)[:, None]
    k_mask_ND = real_N1 & (dk_D < DK)[None, :]
    v_mask_ND = real_N1 & (dv_D < DV)[None, :]
    k_ND = tl.load(k_ptr + key_N[:, None] * k_row_stride + dk_D[None, :], mask=k_mask_ND, other=0.0)
    v_ND = tl.load(v_ptr + key_N[:, None] * v_row_stride + dv_D[None, :], mask=v_mask_ND, other=0.0)

    if HAS_BIAS:
        k_sec_N = tl.load(seconds_ptr + tl.minimum(key_N, num_rows - 1))

    # No row before a key sees it; a tile of candidates is seen by nobody else.
    end = tl.where(first_key < num_history, num_rows, tl.minimum(first_key + N, num_rows))
    grad_k_ND = tl.zeros([N, DK_TILE], tl.float32)
    grad_v_ND = tl.zeros([N, DV_TILE], tl.float32)
    zero_NM = tl.zeros([N, M], tl.float32)
    for first_row in tl.range(first_key // M * M, end, M):
        row_M = first_row + tile_M
        real_M1 = (row_M < num_rows)[:, None]
        q_MD = tl.load(
            q_ptr + row_M[:, None] * q_row_stride + dk_D[None, :],
            mask=real_M1 & (dk_D < DK)[None, :],
            other=0.0,
        )
        grad_out_MD = tl.load(
            grad_out_ptr + row_M[:, None] * (H * DV) + dv_D[None, :],
            mask=real_M1 & (dv_D < DV)[None, :],
            other=0.0,
        )
        limit_M = tl.load(limits_ptr + row_M, mask=row_M < num_rows, other=0).to(tl.int32)
        limit_M = tl.minimum(tl.minimum(limit_M, row_M), num_history)
        half_NM = dot(k_ND, tl.trans(q_MD), zero_NM, INTERPRETED) * half_alpha
        if HAS_BIAS:
            low, high = tile_buckets(buckets_ptr, first_row, first_key, num_blocks, M, N)
            q_sec_M = load_apart(seconds_ptr + tl.minimum(row_M, num_rows - 1), not INTERPRETED)
            half_NM = add_half_time_bias(
                half_NM,
                q_sec_M[None, :],
                k_sec_N[:, None],
                low,
                high,
                *load_bucket(cells_ptr, low, INTERPRETED),
                cells_ptr,
                INTERPRETED,
            )
            half_NM += half_position_bias(
                limit_M[None, :], key_N[:, None], pairs_ptr, num_positions, False, True, INTERPRETED
            )
        grad_weight_NM = dot(v_ND, tl.trans(grad_out_MD), zero_NM, INTERPRETED)
        weight_NM, slope_NM = silu_and_slope_of_half(half_NM, FAST)
        seen_NM = visible(limit_M[None, :], row_M[None, :], key_N[:, None], window, HAS_WINDOW)
        weight_NM = tl.where(seen_NM, weight_NM, 0.0)
        grad_v_ND = dot(weight_NM.to(q_MD.dtype), grad_out_MD, grad_v_ND, INTERPRETED)
        grad_score_NM = tl.where(seen_NM, grad_weight_NM * slope_NM, 0.0)
        grad_k_ND = dot(grad_score_NM.to(q_MD.dtype), q_MD, grad_k_ND, INTERPRETED)

    tl.store(
        grad_k_ptr + key_N[:, None] * (H * DK) + dk_D[None, :],
        (grad_k_ND * grad_scale).to(grad_k_ptr.dtype.element_ty),
        mask=k_mask_ND,
    )
    tl.store(
        grad_v_ptr + key_N[:, None] * (H * DV) + dv_D[None, :],
        (grad_v_ND * inverse_norm).to(grad_v_ptr.dtype.element_ty),
        mask=v_mask_ND,
    )
