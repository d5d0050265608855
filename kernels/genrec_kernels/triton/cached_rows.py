"""Rows of a table from fast memory or straight from the host's, in Triton.

A missed row is read through its address in pinned memory, so it crosses the link in the kernel
that also gathers the hits; nothing is staged.

Letters in shapes: N ids, V rows of the table, C slots, W width of a row, K rows to copy, R rows
of a program.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Bytes of rows that one program gathers: enough loads in flight to hide the link's latency.
BYTES = 8192
NUM_WARPS = 4
#: Programs of a background copy: enough for the link, few enough to leave the GPU to others.
COPY_PROGRAMS = 64

# While repeats are merged, an id without a slot holds this plus the place of its first use.
_CLAIM = tl.constexpr(-(2**31))


@triton.jit
def _claim(ids_ptr, slot_of_ptr, num_ids, num_rows, BLOCK: tl.constexpr):
    place_R = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    id_R = tl.load(ids_ptr + place_R, mask=place_R < num_ids, other=-1)
    inside_R = (id_R >= 0) & (id_R < num_rows)
    slot_R = tl.load(slot_of_ptr + id_R, mask=inside_R, other=0)
    # The lowest value is the first use; slots of residents stay as they are.
    tl.atomic_min(slot_of_ptr + id_R, place_R + _CLAIM, mask=inside_R & (slot_R < 0))


@triton.jit
def _gather(
    ids_ptr, slot_of_ptr, fast_ptr, host_ptr, fast_scales_ptr, host_scales_ptr, out_ptr,
    outside_ptr, first_ptr, order_ptr, num_ids, num_rows,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    HAS_SCALES: tl.constexpr, MERGE: tl.constexpr, HAS_ORDER: tl.constexpr,
):  # fmt: skip
    place_R = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col_W = tl.arange(0, BLOCK_WIDTH)
    real_R = place_R < num_ids
    if HAS_ORDER:
        place_R = tl.load(order_ptr + place_R, mask=real_R, other=0)
    id_R = tl.load(ids_ptr + place_R, mask=real_R, other=0)
    inside_R = (id_R >= 0) & (id_R < num_rows)
    wrong = tl.sum((real_R & ~inside_R).to(tl.int32), axis=0)
    if wrong > 0:
        tl.store(outside_ptr, 1)
    inside_R = inside_R & real_R
    slot_R = tl.load(slot_of_ptr + id_R, mask=inside_R, other=-1)
    hit_R = slot_R >= 0
    read_R = inside_R
    write_R = real_R
    if MERGE:
        first_R = slot_R - _CLAIM
        missed_R = inside_R & ~hit_R
        tl.store(first_ptr + place_R, tl.where(missed_R, first_R, -1), mask=real_R)
        # A later use of a missed row is copied from its first one, once that is there.
        later_R = missed_R & (first_R != place_R)
        read_R = read_R & ~later_R
        write_R = write_R & ~later_R
    # Two loads, the slow one first. One load of either address would be read two bytes at a time:
    # of a choice between pointers some versions of Triton do not know how it is aligned.
    real_W = col_W < WIDTH
    missed_RW = (read_R & ~hit_R)[:, None] & real_W[None, :]
    hit_RW = (read_R & hit_R)[:, None] & real_W[None, :]
    host_R = host_ptr + id_R * WIDTH
    fast_R = fast_ptr + slot_R.to(tl.int64) * WIDTH
    missed_value_RW = tl.load(host_R[:, None] + col_W[None, :], mask=missed_RW, other=0)
    hit_value_RW = tl.load(fast_R[:, None] + col_W[None, :], mask=hit_RW, other=0)
    value_RW = tl.where(hit_RW, hit_value_RW, missed_value_RW)
    if HAS_SCALES:
        scale_at_R = tl.where(hit_R, fast_scales_ptr + slot_R, host_scales_ptr + id_R)
        scale_R = tl.load(scale_at_R, mask=read_R, other=0.0)
        value_RW = value_RW.to(tl.float32) * scale_R[:, None]
    value_RW = value_RW.to(out_ptr.dtype.element_ty)
    value_RW = tl.where(inside_R[:, None], value_RW, float("nan"))
    out_R = out_ptr + place_R.to(tl.int64) * WIDTH
    write_RW = write_R[:, None] & real_W[None, :]
    tl.store(out_R[:, None] + col_W[None, :], value_RW, mask=write_RW)


@triton.jit
def _repeat(
    ids_ptr, slot_of_ptr, first_ptr, out_ptr, num_ids,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    place_R = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    col_W = tl.arange(0, BLOCK_WIDTH)
    first_R = tl.load(first_ptr + place_R, mask=place_R < num_ids, other=-1)
    # Claims are taken back by those who made them: -1 is "no slot".
    id_R = tl.load(ids_ptr + place_R, mask=first_R == place_R, other=0)
    tl.store(slot_of_ptr + id_R, -1, mask=first_R == place_R)
    later_RW = ((first_R >= 0) & (first_R != place_R))[:, None] & (col_W < WIDTH)[None, :]
    from_R = out_ptr + first_R.to(tl.int64) * WIDTH
    value_RW = tl.load(from_R[:, None] + col_W[None, :], mask=later_RW)
    to_R = out_ptr + place_R.to(tl.int64) * WIDTH
    tl.store(to_R[:, None] + col_W[None, :], value_RW, mask=later_RW)


@triton.jit
def _copy(
    ids_ptr, slots_ptr, source_ptr, target_ptr, source_scales_ptr, target_scales_ptr, num_ids,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
):  # fmt: skip
    col_W = tl.arange(0, BLOCK_WIDTH)
    step = tl.num_programs(0) * BLOCK_ROWS
    for start in range(tl.program_id(0) * BLOCK_ROWS, num_ids, step):
        place_R = start + tl.arange(0, BLOCK_ROWS)
        real_R = place_R < num_ids
        id_R = tl.load(ids_ptr + place_R, mask=real_R, other=0)
        slot_R = tl.load(slots_ptr + place_R, mask=real_R, other=0)
        real_RW = real_R[:, None] & (col_W < WIDTH)[None, :]
        from_R = source_ptr + id_R * WIDTH
        value_RW = tl.load(from_R[:, None] + col_W[None, :], mask=real_RW)
        to_R = target_ptr + slot_R * WIDTH
        tl.store(to_R[:, None] + col_W[None, :], value_RW, mask=real_RW)
        if HAS_SCALES:
            scale_R = tl.load(source_scales_ptr + id_R, mask=real_R)
            tl.store(target_scales_ptr + slot_R, scale_R, mask=real_R)


def cached_rows(
    ids: Tensor,
    slot_of: Tensor,
    fast: Tensor,
    host: Tensor,
    fast_scales: Tensor | None,
    host_scales: Tensor | None,
    outside: Tensor,
    dtype: torch.dtype,
    *,
    merge_repeats: bool = False,
    order: Tensor | None = None,
    num_bytes: int = BYTES,
    num_warps: int = NUM_WARPS,
) -> Tensor:
    """As `genrec_kernels.cached_rows`; ids, order and stores must be contiguous.

    `num_bytes` of rows and `num_warps` are those of a program.
    """
    num_ids, width = len(ids), host.shape[1]
    out = torch.empty(num_ids, width, dtype=dtype, device=ids.device)
    if num_ids == 0:
        return out
    block_width, block_rows = _blocks(width, host.element_size(), num_bytes)
    sizes = {"WIDTH": width, "BLOCK_WIDTH": block_width, "BLOCK_ROWS": block_rows}
    first = torch.empty_like(ids, dtype=torch.int32) if merge_repeats else ids
    grid = (triton.cdiv(num_ids, block_rows),)
    if merge_repeats:
        _claim[(triton.cdiv(num_ids, 256),)](ids, slot_of, num_ids, len(slot_of), BLOCK=256)
    _gather[grid](
        ids, slot_of, fast, host,
        slot_of if fast_scales is None else fast_scales,
        slot_of if host_scales is None else host_scales,
        out, outside, first, ids if order is None else order, num_ids, len(slot_of), **sizes,
        HAS_SCALES=host_scales is not None, MERGE=merge_repeats, HAS_ORDER=order is not None,
        num_warps=num_warps,
    )  # fmt: skip
    if merge_repeats:
        _repeat[grid](ids, slot_of, first, out, num_ids, **sizes, num_warps=NUM_WARPS)
    return out


def copy_rows(
    ids: Tensor,
    slots: Tensor,
    source: Tensor,
    target: Tensor,
    source_scales: Tensor | None,
    target_scales: Tensor | None,
) -> None:
    """As `genrec_kernels.copy_rows`; all must be contiguous."""
    if len(ids) == 0:
        return
    block_width, block_rows = _blocks(source.shape[1], source.element_size(), BYTES)
    _copy[(min(COPY_PROGRAMS, triton.cdiv(len(ids), block_rows)),)](
        ids, slots, source, target,
        ids if source_scales is None else source_scales,
        ids if target_scales is None else target_scales,
        len(ids), WIDTH=source.shape[1], BLOCK_WIDTH=block_width, BLOCK_ROWS=block_rows,
        HAS_SCALES=source_scales is not None, num_warps=NUM_WARPS,
    )  # fmt: skip


def _blocks(width: int, element_size: int, num_bytes: int) -> tuple[int, int]:
    """Columns and rows of a program."""
    block_width = triton.next_power_of_2(width)
    return block_width, max(1, num_bytes // (block_width * element_size))
