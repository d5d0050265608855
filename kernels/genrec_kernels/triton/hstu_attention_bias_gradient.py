"""Gradients of the bias tables of jagged HSTU attention.

All heads share the tables, so a tile's score gradients are summed over the heads before they go
to the tables. A program takes one sequence and one diagonal of square tiles: in those, the
distance from row to key depends on the place in the tile alone, so tiles are summed in registers
and reach the position table once, at the end. The time table gets, for each bucket boundary that
a tile crosses, the sum of what lies beyond it.

Suffixes of tensors: M query rows of a tile, N key rows of a tile (as many), D width of a head.
"""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels.triton.bias_plan import FARTHEST, exact_bucket
from genrec_kernels.triton.hstu_tile import (
    dot,
    half_position_bias,
    half_time_bias,
    silu_and_slope_of_half,
    visible,
)


@triton.jit
def hstu_attention_bias_gradient(
    q_ptr,
    k_ptr,
    v_ptr,
    grad_out_ptr,
    grad_position_ptr,
    grad_time_ptr,
    offsets_ptr,
    histories_ptr,
    limits_ptr,
    seconds_ptr,
    pairs_ptr,
    cells_ptr,
    boundaries_ptr,
    q_row_stride,
    q_head_stride,
    k_row_stride,
    k_head_stride,
    v_row_stride,
    v_head_stride,
    num_sequences,
    num_copies,
    num_positions,
    num_buckets,
    window,
    half_alpha,
    inverse_norm,
    H: tl.constexpr,
    DK: tl.constexpr,
    DV: tl.constexpr,
    DK_TILE: tl.constexpr,
    DV_TILE: tl.constexpr,
    M: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    FAST: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """One sequence's tiles whose row tile is `diagonal` tiles past the key tile.

    Sums go to one of `num_copies` copies of each table (float32, zeroed by the caller), so that
    programs seldom wait for each other.
    """
    program = tl.program_id(0)
    sequence = program % num_sequences
    diagonal = program // num_sequences
    start = tl.load(offsets_ptr + sequence)
    num_rows = (tl.load(offsets_ptr + sequence + 1) - start).to(tl.int32)
    if diagonal * M >= num_rows:
        return
    num_history = tl.load(histories_ptr + sequence).to(tl.int32)
    q_ptr += start * q_row_stride
    k_ptr += start * k_row_stride
    v_ptr += start * v_row_stride
    grad_out_ptr += start * (H * DV)
    limits_ptr += start
    seconds_ptr += start
    grad_position_ptr += (program % num_copies) * num_positions
    grad_time_ptr += (program % num_copies) * num_buckets

    tile_M = tl.arange(0, M)
    dk_D = tl.arange(0, DK_TILE)
    dv_D = tl.arange(0, DV_TILE)
    zero_MN = tl.zeros([M, M], tl.float32)
    grad_diagonal_MN = tl.zeros([M, M], tl.float32)
    row_tiles = (num_rows + M - 1) // M
    # Off the main diagonal only keys of the history are seen.
    seen_end = tl.minimum(diagonal + (num_history + M - 1) // M, row_tiles)
    for row_tile in range(diagonal, tl.where(diagonal == 0, row_tiles, seen_end)):
        row_M = row_tile * M + tile_M
        key_N = (row_tile - diagonal) * M + tile_M
        real_M1 = (row_M < num_rows)[:, None]
        real_N1 = (key_N < num_rows)[:, None]
        limit_M = tl.load(limits_ptr + row_M, mask=row_M < num_rows, other=0).to(tl.int32)
        limit_M = tl.minimum(tl.minimum(limit_M, row_M), num_history)
        q_sec_M = tl.load(seconds_ptr + tl.minimum(row_M, num_rows - 1))
        k_sec_N = tl.load(seconds_ptr + tl.minimum(key_N, num_rows - 1))
        apart_MN = q_sec_M[:, None] - k_sec_N[None, :]
        bias_MN = half_time_bias(apart_MN, cells_ptr, INTERPRETED) + half_position_bias(
            limit_M[:, None], key_N[None, :], pairs_ptr, num_positions, False, True, INTERPRETED
        )

        grad_MN = tl.zeros([M, M], tl.float32)
        for head in range(H):
            q_MD = tl.load(
                q_ptr + head * q_head_stride + row_M[:, None] * q_row_stride + dk_D[None, :],
                mask=real_M1 & (dk_D < DK)[None, :],
                other=0.0,
            )
            k_ND = tl.load(
                k_ptr + head * k_head_stride + key_N[:, None] * k_row_stride + dk_D[None, :],
                mask=real_N1 & (dk_D < DK)[None, :],
                other=0.0,
            )
            v_ND = tl.load(
                v_ptr + head * v_head_stride + key_N[:, None] * v_row_stride + dv_D[None, :],
                mask=real_N1 & (dv_D < DV)[None, :],
                other=0.0,
            )
            grad_out_MD = tl.load(
                grad_out_ptr + head * DV + row_M[:, None] * (H * DV) + dv_D[None, :],
                mask=real_M1 & (dv_D < DV)[None, :],
                other=0.0,
            )
            half_MN = dot(q_MD, tl.trans(k_ND), zero_MN, INTERPRETED) * half_alpha + bias_MN
            grad_weight_MN = dot(grad_out_MD, tl.trans(v_ND), zero_MN, INTERPRETED)
            _weight_MN, slope_MN = silu_and_slope_of_half(half_MN, FAST)
            grad_MN += grad_weight_MN * slope_MN

        seen_MN = visible(limit_M[:, None], row_M[:, None], key_N[None, :], window, HAS_WINDOW)
        seen_MN = seen_MN & real_M1
        grad_MN = tl.where(seen_MN, grad_MN * inverse_norm, 0.0)

        apart_MN = tl.where(seen_MN, tl.abs(apart_MN), -1)
        bucket = exact_bucket(
            tl.min(tl.where(seen_MN, apart_MN, FARTHEST)), boundaries_ptr, num_buckets
        )
        last = exact_bucket(tl.maximum(tl.max(apart_MN), 0), boundaries_ptr, num_buckets)
        rest = tl.sum(grad_MN)
        while bucket < last:
            begin = tl.load(boundaries_ptr + bucket + 1).to(tl.int32)
            beyond = tl.sum(tl.where(apart_MN >= begin, grad_MN, 0.0))
            tl.atomic_add(grad_time_ptr + bucket, rest - beyond, sem="relaxed")
            rest = beyond
            bucket += 1
        tl.atomic_add(grad_time_ptr + last, rest, sem="relaxed")

        causal_M1 = (limit_M == row_M)[:, None]
        grad_diagonal_MN += tl.where(causal_M1, grad_MN, 0.0)
        others_M = (limit_M != row_M) & (row_M < num_rows)
        if tl.max(others_M.to(tl.int32)) > 0:  # candidates: their distances have no diagonals
            distance_MN = tl.maximum(limit_M[:, None] - key_N[None, :], 0)
            tl.atomic_add(
                grad_position_ptr + tl.minimum(distance_MN, num_positions - 1),
                grad_MN,
                mask=seen_MN & others_M[:, None],
                sem="relaxed",
            )

    distance_MN = diagonal * M + tile_M[:, None] - tile_M[None, :]
    tl.atomic_add(
        grad_position_ptr + tl.minimum(tl.maximum(distance_MN, 0), num_positions - 1),
        grad_diagonal_MN,
        mask=distance_MN >= 0,
        sem="relaxed",
    )
