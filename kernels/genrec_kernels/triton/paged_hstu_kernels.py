"""HSTU attention of new rows over paged keys and values, in Triton.

One program takes a tile of query rows of one request, one head, and one of several equal parts
of the request's keys. There is no softmax, so the parts' results simply add: with one part a
program writes its rows; with more it writes float32 partial rows that `sum_splits` adds, always
in the same order. Nothing here reads a length on the host, so a CUDA graph can be replayed for
other lengths. Arguments that differ from batch to batch are not specialised (`do_not_specialize`,
here and in the other kernels): Triton would compile again for a 1 or a multiple of 16.

Letters in shapes: T query rows of a tile, L keys of a tile, D head width (padded to a power of 2),
R new rows, B requests, H heads, S rows a page.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels.triton.hstu_tile import silu_of_half
from genrec_kernels.triton.load_apart import load_apart
from genrec_kernels.triton.paged_scores import half_bias

# Times as int32 seconds from the middle of a tile's rows: rows within 17 years of it, keys cut to
# 51 years, so a difference fits in int32, and one that was cut is beyond 34 years (2^30 seconds),
# in the last bucket as it should be, if that starts earlier.
_ROW_REACH = tl.constexpr(2**29)
_KEY_REACH = tl.constexpr(2**30 + 2**29)


@triton.jit
def _near(seconds, reach):
    """int64 seconds cut to ±reach, as int32."""
    return tl.minimum(tl.maximum(seconds, -reach), reach).to(tl.int32)


@triton.jit
def _request_of_tile(row_offsets_ptr, tile, num_requests, BLOCK_ROWS: tl.constexpr):
    """Request of a tile where request ``i`` starts at tile ``offsets[i] // BLOCK_ROWS + i``.

    That leaves each request enough tiles, needs no prefix sum and bounds the number of tiles by
    ``R // BLOCK_ROWS + B``. At most one tile of a request stays empty.
    """
    count = 0
    for first in range(0, num_requests, 256):
        index = first + tl.arange(0, 256)
        exists = index < num_requests
        start = tl.load(row_offsets_ptr + index, mask=exists, other=0) // BLOCK_ROWS + index
        count += tl.sum((exists & (start <= tile)).to(tl.int32))
    return count - 1


@triton.jit
def bias_rows(
    page_times_ptr, table_ptr, row_offsets_ptr, limits_ptr, row_times_ptr,
    position_ptr, time_table_ptr, bound_ptr, half_rows_ptr,
    times_page, times_row, table_row, half_rows_row, num_positions, num_buckets,
    BLOCK: tl.constexpr, PAGE: tl.constexpr, ASM: tl.constexpr,
):  # fmt: skip
    """Half the bias that each request's first new row has on each of its keys.

    Candidates of a request have one limit and one time, so one bias: found here once, instead of
    by every row of every tile of every head.
    """
    request = tl.program_id(0).to(tl.int64)
    row = tl.load(row_offsets_ptr + request)
    if row == tl.load(row_offsets_ptr + request + 1):
        return
    limit = tl.load(limits_ptr + row).to(tl.int32)
    key_L = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real_L = (key_L < limit) & (key_L < half_rows_row)
    page_L = tl.load(table_ptr + request * table_row + key_L // PAGE, mask=real_L, other=0)
    times_at_L = page_times_ptr + page_L.to(tl.int64) * times_page + (key_L % PAGE) * times_row
    seconds_L = tl.load(row_times_ptr + row) - tl.load(times_at_L, mask=real_L, other=0)
    half_L = half_bias(
        limit - key_L, seconds_L,
        position_ptr, time_table_ptr, bound_ptr, num_positions, num_buckets, ASM,
    )  # fmt: skip
    tl.store(half_rows_ptr + request * half_rows_row + key_L, half_L, mask=real_L)


@triton.jit
def _add_keys(
    acc_TD, q_TD, begin, end, last_key, limit_T, time_T, middle, half_row_ptr,
    kv_ptr, kv_desc, desc_page, desc_row, desc_column,
    page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
    kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_KEYS: tl.constexpr,
    PAGE: tl.constexpr, SCALED: tl.constexpr, MASKED: tl.constexpr, BIAS: tl.constexpr,
    FAST: tl.constexpr, ASM: tl.constexpr, TMA: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Add keys [begin, end) to the tile's result; MASKED where some row does not see all.

    SCALED pages, of eight bits, have values by dimension and permuted place (`fp8_pages`): a
    tile's keys are then taken in the order of their places.

    BIAS says where the bias comes from: None; "row" if all rows share the one that `bias_rows`
    left at `half_row_ptr`; "short" if all rows' times lie near `middle`, so that 32-bit
    differences do; "long".
    """
    dim_D = tl.arange(0, BLOCK_DIM)
    place_L = tl.arange(0, BLOCK_KEYS)
    order_L = place_L
    if SCALED:
        order_L = place_L // 16 * 16 + place_L % 4 // 2 * 8 + place_L % 16 // 4 * 2 + place_L % 2
    IN_ONE_PAGE: tl.constexpr = PAGE % BLOCK_KEYS == 0
    if IN_ONE_PAGE:
        # The number of a tile's page, and its keys' times, are loaded an iteration ahead: else
        # the copies of keys and values would wait for them.
        page = tl.load(table_ptr + begin // PAGE, mask=begin < end, other=0).to(tl.int64)
        key_L = begin + order_L
        if BIAS == "row":
            half_L = tl.load(half_row_ptr + key_L, mask=key_L < end, other=0.0)
        elif BIAS is not None:
            slot_L = begin % PAGE + order_L
            times_at_L = page_times_ptr + page * times_page + slot_L * times_row
            key_time_L = tl.load(times_at_L, mask=key_L < end, other=0)
    for first_key in tl.range(begin, end, BLOCK_KEYS, num_stages=STAGES):
        key_L = first_key + order_L
        # Rows past the last key may hold anything, NaN too, which a weight of 0 would let through:
        # the last key is read in their place.
        real_L = tl.minimum(key_L, last_key - 1) if MASKED else key_L
        if IN_ONE_PAGE:
            first_slot = first_key % PAGE
            slot_L = real_L - (first_key - first_slot)
            if TMA and not MASKED:
                first_row = (page * desc_page).to(tl.int32) + desc_row + first_slot
                k_LD = kv_desc.load([first_row, desc_column])
                v_LD = kv_desc.load([first_row, desc_column + HEAD_DIM])
            else:
                k_at_LD = kv_ptr + page * kv_page + slot_L[:, None] * kv_row + dim_D[None, :]
                if SCALED:
                    values_L = page * kv_page + first_slot + place_L
            if BIAS == "row":
                this_half_L = half_L
            elif BIAS is not None:
                this_time_L = key_time_L
            next_key = tl.minimum(first_key + BLOCK_KEYS, end - 1)
            page = load_apart(table_ptr + next_key // PAGE, ASM).to(tl.int64)
            if BIAS == "row":
                next_key_L = tl.minimum(key_L + BLOCK_KEYS, last_key - 1)
                half_L = load_apart(half_row_ptr + next_key_L, ASM)
            elif BIAS is not None:
                next_slot = next_key % PAGE // BLOCK_KEYS * BLOCK_KEYS
                slot_L = next_slot + order_L
                times_at_L = page_times_ptr + page * times_page + slot_L * times_row
                key_time_L = load_apart(times_at_L, ASM)
        else:
            page_L = tl.load(table_ptr + real_L // PAGE).to(tl.int64)
            slot_L = real_L % PAGE
            row_at_L = kv_ptr + page_L * kv_page + slot_L * kv_row
            k_at_LD = row_at_L[:, None] + dim_D[None, :]
            if SCALED:
                values_L = page_L * kv_page + (first_key + place_L) % PAGE
            if BIAS == "row":
                this_half_L = tl.load(half_row_ptr + real_L)
            elif BIAS is not None:
                this_time_L = tl.load(page_times_ptr + page_L * times_page + slot_L * times_row)
        if SCALED:
            k_LD = tl.load(k_at_LD, mask=dim_D[None, :] < HEAD_DIM, other=0.0)
            v_at_LD = kv_ptr + PAGE * HEAD_DIM + values_L[:, None] + dim_D[None, :] * PAGE
            real_LD = dim_D[None, :] < HEAD_DIM
            if MASKED:  # there is no row to read the last key's value of in its place
                real_LD = real_LD & (key_L < last_key)[:, None]
            v_LD = tl.load(v_at_LD, mask=real_LD, other=0.0)
        elif not (TMA and IN_ONE_PAGE and not MASKED):
            if HEAD_DIM == BLOCK_DIM:
                k_LD = tl.load(k_at_LD)
                v_LD = tl.load(k_at_LD + HEAD_DIM)
            else:
                k_LD = tl.load(k_at_LD, mask=dim_D[None, :] < HEAD_DIM, other=0.0)
                v_LD = tl.load(k_at_LD + HEAD_DIM, mask=dim_D[None, :] < HEAD_DIM, other=0.0)
        k_LD = k_LD.to(q_TD.dtype)
        v_LD = v_LD.to(q_TD.dtype)

        half_TL = tl.dot(q_TD, tl.trans(k_LD), input_precision="ieee") * half_alpha
        if BIAS == "row":
            half_TL += this_half_L[None, :]
        elif BIAS is not None:
            if BIAS == "short":
                this_time_L = _near(this_time_L - middle, _KEY_REACH)
            half_TL += half_bias(
                limit_T[:, None] - key_L[None, :], time_T[:, None] - this_time_L[None, :],
                position_ptr, time_table_ptr, bound_ptr, num_positions, num_buckets, ASM,
            )  # fmt: skip
        weight_TL = silu_of_half(half_TL, FAST)
        if MASKED:
            if BIAS == "row":
                visible_TL = (key_L < last_key)[None, :]
            else:
                visible_TL = key_L[None, :] < limit_T[:, None]
            weight_TL = tl.where(visible_TL, weight_TL, 0.0)
        acc_TD = tl.dot(weight_TL.to(q_TD.dtype), v_LD, acc_TD, input_precision="ieee")
    return acc_TD


@triton.jit(do_not_specialize=["num_requests", "tiles_per_request", "num_splits"])
def attend(
    q_ptr, k_ptr, v_ptr, kv_ptr, kv_desc, page_times_ptr, table_ptr, row_offsets_ptr, limits_ptr,
    row_times_ptr, position_ptr, time_table_ptr, bound_ptr, half_rows_ptr, scales_ptr, out_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head,
    kv_page, kv_head, kv_row, desc_page, desc_head_row, desc_head_column, times_page, times_row,
    table_row, half_rows_row, out_split, out_row, out_head,
    num_requests, tiles_per_request, num_splits, num_positions, num_buckets,
    half_alpha, inverse_length,
    HEAD_DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    BLOCK_KEYS: tl.constexpr, PAGE: tl.constexpr, PACKED: tl.constexpr, HAS_BIAS: tl.constexpr,
    SCALED: tl.constexpr, SHORT: tl.constexpr, FAST: tl.constexpr, UPCAST: tl.constexpr,
    ASM: tl.constexpr, TMA: tl.constexpr, PDL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of query rows of one request and head, over one part of the request's keys.

    Rows of `out_ptr` are sums of a part, `out_split` elements after those of the part before.
    """
    if PDL:  # `sum_splits` may be set up while this runs
        tl.extra.cuda.gdc_launch_dependents()
    tile, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if PACKED:
        request = _request_of_tile(row_offsets_ptr, tile, num_requests, BLOCK_ROWS)
        first_row = tl.load(row_offsets_ptr + request)
        tile = tile - (first_row // BLOCK_ROWS + request)
    else:
        request = tile // tiles_per_request
        tile = tile % tiles_per_request
        first_row = tl.load(row_offsets_ptr + request)
    request_row = first_row.to(tl.int64)
    first_row = request_row + tile.to(tl.int64) * BLOCK_ROWS
    last_row = tl.load(row_offsets_ptr + request + 1).to(tl.int64)
    if first_row >= last_row:
        return

    row_T = first_row + tl.arange(0, BLOCK_ROWS)
    dim_D = tl.arange(0, BLOCK_DIM)
    real_T = row_T < last_row
    wanted_TD = real_T[:, None] & (dim_D[None, :] < HEAD_DIM)
    q_TD = tl.load(
        q_ptr + row_T[:, None] * q_row + head * q_head + dim_D[None, :], mask=wanted_TD, other=0.0
    )
    if UPCAST:  # the interpreter multiplies bfloat16 matrices wrongly
        q_TD = q_TD.to(tl.float32)
    limit_T = tl.load(limits_ptr + row_T, mask=real_T, other=0).to(tl.int32)
    most = tl.max(limit_T)
    least = tl.min(tl.where(real_T, limit_T, most))

    # The parts of the keys follow from the request's own length: equal, and whole key tiles.
    part = tl.cdiv(tl.cdiv(most, num_splits), BLOCK_KEYS) * BLOCK_KEYS
    begin = split * part
    end = tl.minimum(begin + part, most)
    all_see = begin + tl.maximum(tl.minimum(end, least) - begin, 0) // BLOCK_KEYS * BLOCK_KEYS

    desc_row, desc_column = head * desc_head_row, head * desc_head_column
    kv_ptr += head.to(tl.int64) * kv_head
    table_ptr += request.to(tl.int64) * table_row
    # Each row sees itself: once, so in the first part only.
    own_T = row_T < tl.where(split == 0, last_row, first_row)
    own_TD = own_T[:, None] & (dim_D[None, :] < HEAD_DIM)
    k_ptr_TD = k_ptr + row_T[:, None] * k_row + head * k_head + dim_D[None, :]
    v_ptr_TD = v_ptr + row_T[:, None] * v_row + head * v_head + dim_D[None, :]
    k_TD = tl.load(k_ptr_TD, mask=own_TD, other=0.0).to(tl.float32)
    half_T = tl.sum(q_TD.to(tl.float32) * k_TD, 1) * half_alpha
    if HAS_BIAS:
        own_bias = tl.load(position_ptr).to(tl.float32) + tl.load(time_table_ptr).to(tl.float32)
        half_T += 0.5 * own_bias
    v_TD = tl.load(v_ptr_TD, mask=own_TD, other=0.0).to(tl.float32)
    acc_TD = silu_of_half(half_T, FAST)[:, None] * v_TD
    if SCALED:  # float8 pages: a scale of the head's keys, and one of its values
        half_alpha *= tl.load(scales_ptr + head)
        value_scale = tl.load(scales_ptr + tl.num_programs(1) + head)
        acc_TD /= value_scale
        inverse_length *= value_scale
        if q_TD.dtype == tl.bfloat16:  # which float8 becomes by four times the instructions
            q_TD = q_TD.to(tl.float16)

    if HAS_BIAS:
        time_T = tl.load(row_times_ptr + row_T, mask=real_T, other=0)
        latest = tl.max(tl.where(real_T, time_T, -0x7FFFFFFFFFFFFFFF))
        earliest = tl.min(tl.where(real_T, time_T, 0x7FFFFFFFFFFFFFFF))
        # Are all rows as the request's first, as candidates are? Their bias is made already.
        alike = (least == most) & (latest == earliest) & (most <= half_rows_row)
        alike = alike & (most == tl.load(limits_ptr + request_row).to(tl.int32))
        if alike & (latest == tl.load(row_times_ptr + request_row)):
            half_row_ptr = half_rows_ptr + request.to(tl.int64) * half_rows_row
            acc_TD = _add_keys(
                acc_TD, q_TD, begin, all_see, most, most, 0, 0, half_row_ptr,
                kv_ptr, kv_desc, desc_page, desc_row, desc_column,
                page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
                kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
                HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, False, "row", FAST, ASM, TMA, STAGES,
            )  # fmt: skip
            acc_TD = _add_keys(
                acc_TD, q_TD, all_see, end, most, most, 0, 0, half_row_ptr,
                kv_ptr, kv_desc, desc_page, desc_row, desc_column,
                page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
                kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
                HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, True, "row", FAST, ASM, TMA, 1,
            )  # fmt: skip
        elif SHORT & (latest - earliest <= 2 * _ROW_REACH):
            middle = earliest + (latest - earliest) // 2
            near_T = _near(time_T - middle, _ROW_REACH)
            acc_TD = _add_keys(
                acc_TD, q_TD, begin, all_see, most, limit_T, near_T, middle, half_rows_ptr,
                kv_ptr, kv_desc, desc_page, desc_row, desc_column,
                page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
                kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
                HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, False, "short", FAST, ASM, TMA,
                STAGES,
            )  # fmt: skip
            acc_TD = _add_keys(
                acc_TD, q_TD, all_see, end, most, limit_T, near_T, middle, half_rows_ptr,
                kv_ptr, kv_desc, desc_page, desc_row, desc_column,
                page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
                kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
                HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, True, "short", FAST, ASM, TMA, 1,
            )  # fmt: skip
        else:
            acc_TD = _add_keys(
                acc_TD, q_TD, begin, end, most, limit_T, time_T, 0, half_rows_ptr,
                kv_ptr, kv_desc, desc_page, desc_row, desc_column,
                page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
                kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
                HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, True, "long", FAST, ASM, TMA, 1,
            )  # fmt: skip
    else:
        acc_TD = _add_keys(
            acc_TD, q_TD, begin, all_see, most, limit_T, limit_T, 0, half_rows_ptr,
            kv_ptr, kv_desc, desc_page, desc_row, desc_column,
            page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
            kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
            HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, False, None, FAST, ASM, TMA, STAGES,
        )  # fmt: skip
        acc_TD = _add_keys(
            acc_TD, q_TD, all_see, end, most, limit_T, limit_T, 0, half_rows_ptr,
            kv_ptr, kv_desc, desc_page, desc_row, desc_column,
            page_times_ptr, table_ptr, position_ptr, time_table_ptr, bound_ptr,
            kv_page, kv_row, times_page, times_row, num_positions, num_buckets, half_alpha,
            HEAD_DIM, BLOCK_DIM, BLOCK_KEYS, PAGE, SCALED, True, None, FAST, ASM, TMA, 1,
        )  # fmt: skip

    out_ptr_TD = out_ptr + row_T[:, None] * out_row + head * out_head + dim_D[None, :]
    out_ptr_TD += split.to(tl.int64) * out_split
    result_TD = (acc_TD * inverse_length).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr_TD, result_TD, mask=wanted_TD)


@triton.jit(do_not_specialize=["num_splits"])
def sum_splits(
    partial_ptr, out_ptr, count, num_splits,
    BLOCK: tl.constexpr, BLOCK_SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Adds the parts' sums, always in the same order."""
    if PDL:
        tl.extra.cuda.gdc_wait()
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    split = tl.arange(0, BLOCK_SPLITS).to(tl.int64)
    partial = tl.load(
        partial_ptr + split[:, None] * count + index[None, :],
        mask=(split[:, None] < num_splits) & (index[None, :] < count),
        other=0.0,
    )
    tl.store(out_ptr + index, tl.sum(partial, 0).to(out_ptr.dtype.element_ty), mask=index < count)
