"""Rows in eight bits, in Triton: q, k and v in one pass, values laid out for the tensor cores.

A program has `PLACES` places of one sequence and head: their rows of q and k, and their values.

Letters in shapes: N rows of a program, D head width.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.fp8_layout import (
    LARGEST,
    PERMUTED,
    PLACES,
    Fp8Rows,
    Fp8Scales,
    largest_factor,
    places,
)


@triton.jit
def _round(x_ND, factor, LARGEST: tl.constexpr):
    scaled_ND = x_ND.to(tl.float32) * factor
    return tl.clamp(scaled_ND, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL).to(
        tl.float8e4nv
    )


@triton.jit(do_not_specialize=["num_sequences", "search_steps"])
def _to_fp8(
    q_ptr, k_ptr, v_ptr, offsets_ptr, q_factor_ptr, k_factor_ptr, v_factor_ptr,
    q8_ptr, k8_ptr, vt_ptr, num_sequences, search_steps, num_places,
    q_row, q_head, k_row, k_head, v_row, v_head,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
    PLACES: tl.constexpr, PERMUTED: tl.constexpr, LARGEST: tl.constexpr,
    FACTOR: tl.constexpr,
):  # fmt: skip
    unit = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    # The last sequence that begins at this unit or before.
    low = tl.zeros((), tl.int64)
    high = tl.zeros((), tl.int64) + num_sequences
    for _ in range(search_steps):
        middle = (low + high) // 2
        begins = tl.load(offsets_ptr + middle) // PLACES + middle <= unit
        low = tl.where(begins, middle, low)
        high = tl.where(begins, high, middle)
    start = tl.load(offsets_ptr + low)
    end = tl.load(offsets_ptr + low + 1)
    first = start + (unit - start // PLACES - low) * PLACES
    if first < end:
        place_N = tl.arange(0, PLACES)
        dim_D = tl.arange(0, BLOCK_DIM)
        row_N = first + place_N
        real_ND = (row_N < end)[:, None] & (dim_D < HEAD_DIM)[None, :]
        out_N = (row_N * NUM_HEADS + head) * HEAD_DIM
        out_ND = out_N[:, None] + dim_D[None, :]
        q_ND = tl.load((q_ptr + row_N * q_row + head * q_head)[:, None] + dim_D, mask=real_ND)
        tl.store(q8_ptr + out_ND, _round(q_ND, tl.load(q_factor_ptr + head), FACTOR), mask=real_ND)
        k_ND = tl.load((k_ptr + row_N * k_row + head * k_head)[:, None] + dim_D, mask=real_ND)
        tl.store(k8_ptr + out_ND, _round(k_ND, tl.load(k_factor_ptr + head), FACTOR), mask=real_ND)

        # The key at each place, see `fp8_layout`.
        within_N, pair_N = place_N % PERMUTED // 4, place_N % 4
        key_N = place_N // PERMUTED * PERMUTED + pair_N // 2 * 8 + within_N * 2 + pair_N % 2
        row_N = first + key_N
        real_ND = (row_N < end)[:, None] & (dim_D < HEAD_DIM)[None, :]
        v_at_N = v_ptr + row_N * v_row + head * v_head
        v_ND = tl.load(v_at_N[:, None] + dim_D, mask=real_ND, other=0.0)
        v_DN = tl.trans(_round(v_ND, tl.load(v_factor_ptr + head), LARGEST))
        line_D = (head * HEAD_DIM + dim_D).to(tl.int64) * num_places
        at_DN = vt_ptr + line_D[:, None] + (unit * PLACES + place_N)[None, :]
        tl.store(at_DN, v_DN, mask=(dim_D < HEAD_DIM)[:, None])


def to_fp8(q: Tensor, k: Tensor, v: Tensor, *, offsets: Tensor, scales: Fp8Scales) -> Fp8Rows:
    """As `genrec_kernels.fp8_rows.to_fp8`; last axes contiguous.

    Places of no sequence's last unit or before are left as they are.
    """
    num_rows, heads, width = q.shape
    num_sequences = offsets.shape[0] - 1
    num_places = places(num_rows, num_sequences)
    dtype = torch.float8_e4m3fn
    q8, k8 = (torch.empty((num_rows, heads, width), dtype=dtype, device=q.device) for _ in "qk")
    vt = torch.empty((heads, width, num_places), dtype=dtype, device=q.device)
    rows = Fp8Rows(q8, k8, vt, scales)
    if num_rows == 0:
        return rows
    _to_fp8[(num_places // PLACES, heads)](
        q, k, v, offsets, *(scale.reciprocal() for scale in scales), q8, k8, vt,
        num_sequences, num_sequences.bit_length(), num_places,
        *(n for x in (q, k, v) for n in x.stride()[:2]),
        NUM_HEADS=heads, HEAD_DIM=width, BLOCK_DIM=triton.next_power_of_2(width),
        PLACES=PLACES, PERMUTED=PERMUTED, LARGEST=LARGEST, FACTOR=largest_factor(width),
        num_warps=8,
    )  # fmt: skip
    return rows
