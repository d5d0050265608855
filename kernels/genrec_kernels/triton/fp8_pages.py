"""Rows in eight bits, in Triton: into pages as `genrec_kernels.fp8_pages` has them, and queries.

A program writes the runs that begin in its `PERMUTED` rows of the batch: rows one after the other
whose slots follow each other in one group of `PERMUTED`. A thread has a few dimensions of a whole
group, loaded by places, so its values go out as they come: 16 bytes at once where a run fills its
group, else two. No run reaches beyond the `PERMUTED` rows after its program's.

Where queries are rounded in the same launch, a program has those of its rows, with a slot or
without: programs of candidates, which write nothing, have nothing else to do.

Letters in shapes: Y rows that a program looks at, X keys and P places of a group, D dimensions of
a program (of a head, or a part of them), H half as many. Of queries, X are rows.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.fp8_layout import KEY_OF_PLACE, LARGEST, PERMUTED, largest_factor
from genrec_kernels.fp8_pages import FP8, keys_and_values
from genrec_kernels.triton.page_write import time_arguments

#: Dimensions of a program that writes pages, and its warps: two dimensions of a thread.
DIMENSIONS = 64
WARPS = 1
#: Elements of a program that rounds rows.
ELEMENTS = 2048
_GROUP = tl.constexpr(PERMUTED)
_KEY_OF_PLACE = tl.constexpr(KEY_OF_PLACE)


@triton.jit
def _rounded(x_XD, factor, LARGEST: tl.constexpr):
    """Rows times one over their head's scale, cut to the largest."""
    return tl.clamp(
        x_XD.to(tl.float32) * factor, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL
    ).to(tl.float8e4nv)


@triton.jit
def _by_places(
    x_ptr, x_row, dim_D, from_key, to_key,
    HEAD_DIM: tl.constexpr, PLACE: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Rows of a run's keys at the places ``PLACE + n · STEP``, [D, 2, 2, ...].

    The last axis is n's lowest bit. All places of a dimension are in one thread.
    """
    if STEP == _GROUP:
        key: tl.constexpr = _KEY_OF_PLACE[PLACE]
        dims = tl.where((from_key <= key) & (to_key > key), HEAD_DIM, 0)
        return tl.load(x_ptr + x_row * key + dim_D, mask=dim_D < dims)
    else:
        return tl.join(
            _by_places(x_ptr, x_row, dim_D, from_key, to_key, HEAD_DIM, PLACE, 2 * STEP),
            _by_places(x_ptr, x_row, dim_D, from_key, to_key, HEAD_DIM, PLACE + STEP, 2 * STEP),
        )


@triton.jit
def _store_values(
    ptr_HP, even_HP, odd_HP, dim_H, wanted_P, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr
):
    """The wanted places of the dimensions `dim_H`, which are even, and of those after them."""
    wanted_1P = wanted_P[None, :]
    tl.store(ptr_HP, even_HP, mask=(dim_H < HEAD_DIM)[:, None] & wanted_1P)
    tl.store(ptr_HP + PAGE, odd_HP, mask=(dim_H + 1 < HEAD_DIM)[:, None] & wanted_1P)


@triton.jit(do_not_specialize=["num_rows"])
def _write(
    k_ptr, v_ptr, slots_ptr, times_ptr, scales_ptr, keys_ptr, values_ptr, page_times_ptr, num_rows,
    k_row, k_head, v_row, v_head, kv_page, kv_head, times_page, times_row,
    q_ptr, queries_ptr, qk_scale, q_row, q_head,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, PAGE: tl.constexpr, LARGEST: tl.constexpr,
    LARGEST_KEY: tl.constexpr, HAS_TIMES: tl.constexpr, HAS_QUERIES: tl.constexpr,
):  # fmt: skip
    """The runs that begin in a group of rows, and its queries: `BLOCK_DIM` dimensions of a head."""
    head, part = tl.program_id(1), tl.program_id(2)
    dim_D = part * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    key_X = tl.arange(0, _GROUP)
    if HAS_QUERIES:
        # Before anything waits for slots, which queries do not need.
        row_X = tl.program_id(0).to(tl.int64) * _GROUP + key_X
        q_mask_XD = (row_X < num_rows)[:, None] & (dim_D < HEAD_DIM)[None, :]
        q_ptr_X = q_ptr + row_X * q_row + head * q_head
        q_XD = tl.load(q_ptr_X[:, None] + dim_D[None, :], mask=q_mask_XD)
        factor = tl.load(scales_ptr + head) / qk_scale
    y_Y = tl.arange(0, 2 * _GROUP)
    row_Y = tl.program_id(0) * _GROUP + y_Y
    slot_Y = tl.load(slots_ptr + row_Y, mask=row_Y < num_rows, other=-1)
    before_Y = tl.load(slots_ptr + row_Y - 1, mask=(row_Y > 0) & (row_Y <= num_rows), other=-1)
    # Rows that do not continue a run; of these, one that has a slot begins a run.
    key_Y = (slot_Y % _GROUP).to(tl.int32)
    fresh_Y = (key_Y == 0) | (slot_Y != before_Y + 1)
    begins_Y = fresh_Y & (slot_Y >= 0) & (y_Y < _GROUP)
    # Row and key in one number, so that one minimum finds both.
    none: tl.constexpr = 2 * _GROUP * _GROUP
    found_Y = tl.where(begins_Y, y_Y * _GROUP + key_Y, none)

    dim_H = part * BLOCK_DIM + 2 * tl.arange(0, BLOCK_DIM // 2)
    place_P = tl.arange(0, _GROUP)
    # Two places have two keys one after the other, see `fp8_layout`: the even one.
    pair_P = place_P // 2
    even_key_P = pair_P % 2 * 8 + pair_P // 2 * 2

    found = tl.min(found_Y)
    if HAS_QUERIES:
        queries_ptr_X = queries_ptr + (row_X * tl.num_programs(1) + head) * HEAD_DIM
        queries_XD = _rounded(q_XD, factor, LARGEST_KEY)
        tl.store(queries_ptr_X[:, None] + dim_D[None, :], queries_XD, mask=q_mask_XD)
    while found < none:
        begin, from_key = found // _GROUP, found % _GROUP
        end = tl.min(tl.where(fresh_Y & (y_Y > begin), y_Y, 2 * _GROUP))
        to_key = from_key + end - begin
        # Of the group's first key: its row (or where that would be), and its place in the pages.
        row = tl.program_id(0).to(tl.int64) * _GROUP + begin - from_key
        group = tl.load(slots_ptr + row + from_key).to(tl.int64) // _GROUP
        page, first = group // (PAGE // _GROUP), group % (PAGE // _GROUP) * _GROUP
        at = page * kv_page + head.to(tl.int64) * kv_head

        v_at = v_ptr + row * v_row + head * v_head
        v_DP = _by_places(v_at, v_row, dim_D, from_key, to_key, HEAD_DIM, 0, 1)
        in_run_X = (key_X >= from_key) & (key_X < to_key)
        k_ptr_X = k_ptr + row * k_row + head * k_head + key_X * k_row
        k_mask_XD = in_run_X[:, None] & (dim_D < HEAD_DIM)[None, :]
        k_XD = tl.load(k_ptr_X[:, None] + dim_D[None, :], mask=k_mask_XD)
        # Any earlier, and the rows would wait for them.
        k_scale = tl.load(scales_ptr + head)
        v_scale = tl.load(scales_ptr + tl.num_programs(1) + head)

        keys_ptr_X = keys_ptr + at + first * HEAD_DIM + key_X * HEAD_DIM
        k_XD = _rounded(k_XD, tl.div_rn(1.0, k_scale), LARGEST_KEY)
        tl.store(keys_ptr_X[:, None] + dim_D[None, :], k_XD, mask=k_mask_XD)
        v_DP = _rounded(v_DP, tl.div_rn(1.0, v_scale), LARGEST)
        # A thread has neighbours in D, and stores one at a time.
        v_H2P = v_DP.reshape(BLOCK_DIM // 2, 2, _GROUP)
        even_HP, odd_HP = tl.split(v_H2P.permute(0, 2, 1))
        ptr_HP = values_ptr + at + first + (dim_H * PAGE)[:, None] + place_P[None, :]
        if end - begin == _GROUP:
            _store_values(ptr_HP, even_HP, odd_HP, dim_H, place_P >= 0, HEAD_DIM, PAGE)
        else:
            both_P = (even_key_P >= from_key) & (even_key_P + 1 < to_key)
            _store_values(ptr_HP, even_HP, odd_HP, dim_H, both_P, HEAD_DIM, PAGE)
            if (from_key % 2 != 0) | (to_key % 2 != 0):
                key_P = even_key_P + place_P % 2
                one_P = (key_P >= from_key) & (key_P < to_key) & (both_P == 0)
                _store_values(ptr_HP, even_HP, odd_HP, dim_H, one_P, HEAD_DIM, PAGE)
        if HAS_TIMES:
            times_X = in_run_X & (key_X < tl.where(head + part == 0, _GROUP, 0))
            time_X = tl.load(times_ptr + row + key_X, mask=times_X)
            times_ptr_X = page_times_ptr + page * times_page + (first + key_X) * times_row
            tl.store(times_ptr_X, time_X, mask=times_X)
        found = tl.min(tl.where(y_Y >= end, found_Y, none))


def page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    *,
    kv_pages: Tensor,
    timestamps: Tensor | None,
    timestamp_pages: Tensor | None,
    kv_scales: Tensor,
    q: Tensor | None = None,
    queries: Tensor | None = None,
    qk_scale: float | None = None,
) -> None:
    """As `genrec_kernels.page_write` for pages of eight bits; last axes must be contiguous.

    Args:
        k, v, slots, kv_pages, timestamps, timestamp_pages, kv_scales: as there.
        q, qk_scale: as there.
        queries: float8 [R, H, D], contiguous, written as `narrow_queries` has it; given with `q`.
    """
    num_rows, num_heads, head_dim = k.shape
    if num_rows == 0:
        return
    times, time_pages, time_strides = time_arguments(slots, timestamps, timestamp_pages)
    keys, values = keys_and_values(kv_pages)
    of_queries = (k, keys, 1.0, 0, 0)  # for none
    if q is not None and queries is not None and qk_scale is not None:
        of_queries = (q, queries, qk_scale, q.stride(0), q.stride(1))
    block_dim = max(2, min(DIMENSIONS, triton.next_power_of_2(head_dim)))
    _write[(triton.cdiv(num_rows, PERMUTED), num_heads, triton.cdiv(head_dim, block_dim))](
        k, v, slots, times, kv_scales, keys, values, time_pages, num_rows,
        k.stride(0), k.stride(1), v.stride(0), v.stride(1), *keys.stride()[:2], *time_strides,
        *of_queries,
        HEAD_DIM=head_dim, BLOCK_DIM=block_dim, PAGE=kv_pages.shape[2],
        LARGEST=LARGEST, LARGEST_KEY=largest_factor(head_dim), HAS_TIMES=times is not slots,
        HAS_QUERIES=of_queries[0] is q, num_warps=WARPS,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_rows"])
def _narrow_queries(
    q_ptr, k_scales_ptr, out_ptr, num_rows, qk_scale, q_row, q_head,
    NUM_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """Rows of one head after the other: X counts both."""
    pair_X = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_X, head_X = pair_X // NUM_HEADS, pair_X % NUM_HEADS
    dim_D = tl.arange(0, BLOCK_DIM)
    real_XD = (row_X < num_rows)[:, None] & (dim_D < HEAD_DIM)[None, :]
    q_at_X = q_ptr + row_X * q_row + head_X * q_head
    q_XD = tl.load(q_at_X[:, None] + dim_D[None, :], mask=real_XD)
    factor_X = tl.load(k_scales_ptr + head_X) / qk_scale
    out_at_XD = out_ptr + (pair_X * HEAD_DIM)[:, None] + dim_D[None, :]
    tl.store(out_at_XD, _rounded(q_XD, factor_X[:, None], LARGEST), mask=real_XD)


def narrow_queries(q: Tensor, k_scales: Tensor, qk_scale: float) -> Tensor:
    """``q · k_scales / qk_scale`` in float8, so that products with keys are times `qk_scale`.

    Args:
        q: float [R, H, D], the last axis contiguous.
        k_scales: float32 [H], of keys in eight bits.
        qk_scale: of products.

    Returns:
        float8 [R, H, D], contiguous.
    """
    num_rows, num_heads, head_dim = q.shape
    out = torch.empty(q.shape, dtype=FP8, device=q.device)
    if num_rows:
        block_dim = triton.next_power_of_2(head_dim)
        block_rows = max(1, ELEMENTS // block_dim)
        _narrow_queries[(triton.cdiv(num_rows * num_heads, block_rows),)](
            q, k_scales, out, num_rows, qk_scale, q.stride(0), q.stride(1),
            NUM_HEADS=num_heads, HEAD_DIM=head_dim, BLOCK_DIM=block_dim, BLOCK_ROWS=block_rows,
            LARGEST=largest_factor(head_dim), num_warps=4,
        )  # fmt: skip
    return out
