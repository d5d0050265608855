"""Copies float8 pages of requests as numbers of 16 or 32 bits, in Triton.

Letters in shapes: R rows of a block, E places of a row: keys, then values.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from genrec_kernels.fp8_pages import WidePages, num_wide_pages

#: Elements of a page that a program has in registers at once.
ELEMENTS = 4096
_LIMITS = tl.constexpr(256)


@triton.jit
def _any_sees(limits_ptr, first, last, key):
    """Whether a row from `first` to `last` sees `key`, 0 or 1.

    Limits may come in any order. The last rows, which mostly see most, are looked at first.
    """
    seen = 0
    while (last > first) & (seen == 0):
        row_R = last - _LIMITS + tl.arange(0, _LIMITS)
        limit_R = tl.load(limits_ptr + row_R, mask=row_R >= first, other=0)
        seen = tl.max((limit_R > key).to(tl.int32))
        last -= _LIMITS
    return seen


@triton.jit
def widen(
    kv_ptr, scales_ptr, table_ptr, offsets_ptr, limits_ptr, wide_ptr, wide_table_ptr,
    kv_page, kv_head, kv_row, table_row,
    WIDTH: tl.constexpr, BLOCK_WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    """One head of one page of a request, if one of its rows sees a key of the page."""
    request, place, head = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_heads = tl.num_programs(2)
    wide_page = request * tl.num_programs(1) + place
    if head == 0:
        tl.store(wide_table_ptr + wide_page, wide_page)
    first = tl.load(offsets_ptr + request).to(tl.int32)
    last = tl.load(offsets_ptr + request + 1).to(tl.int32)
    if _any_sees(limits_ptr, first, last, place * PAGE) == 0:
        return
    page = tl.load(table_ptr + request.to(tl.int64) * table_row + place)
    kv_ptr += page.to(tl.int64) * kv_page + head.to(tl.int64) * kv_head
    wide_ptr += (wide_page.to(tl.int64) * num_heads + head) * (PAGE * WIDTH)
    of_keys = tl.load(scales_ptr + head)
    of_values = tl.load(scales_ptr + num_heads + head)
    place_E = tl.arange(0, BLOCK_WIDTH)
    scale_E = tl.where(place_E < WIDTH // 2, of_keys, of_values)
    for first_row in range(0, PAGE, BLOCK_ROWS):
        row_R = first_row + tl.arange(0, BLOCK_ROWS)
        real_RE = (row_R < PAGE)[:, None] & (place_E < WIDTH)[None, :]
        kv_RE = tl.load(
            kv_ptr + row_R.to(tl.int64)[:, None] * kv_row + place_E[None, :], mask=real_RE
        )
        wide_RE = kv_RE.to(tl.float32) * scale_E[None, :]
        tl.store(
            wide_ptr + row_R[:, None] * WIDTH + place_E[None, :],
            wide_RE.to(wide_ptr.dtype.element_ty),
            mask=real_RE,
        )


def widen_pages(
    kv_pages: Tensor,
    kv_scales: Tensor,
    *,
    page_table: Tensor,
    row_offsets: Tensor,
    key_limits: Tensor,
    max_keys: int,
    dtype: torch.dtype,
) -> WidePages:
    """As `genrec_kernels.reference.widen_pages`.

    Last axes of `kv_pages` and `page_table`, and all of `kv_scales` and `key_limits`, must be
    contiguous. Nothing is read on the host.
    """
    num_requests, num_heads = row_offsets.shape[0] - 1, kv_pages.shape[1]
    page_size, width = kv_pages.shape[2:]
    pages = num_wide_pages(max_keys, page_size)
    shape = (num_requests * pages, num_heads, page_size, width)
    wide = torch.empty(shape, dtype=dtype, device=kv_pages.device)
    table = torch.empty((num_requests, pages), dtype=torch.int32, device=kv_pages.device)
    block_width = triton.next_power_of_2(width)
    block_rows = min(max(ELEMENTS // block_width, 1), triton.next_power_of_2(page_size))
    widen[(num_requests, pages, num_heads)](
        kv_pages, kv_scales, page_table, row_offsets, key_limits, wide, table,
        kv_pages.stride(0), kv_pages.stride(1), kv_pages.stride(2), page_table.stride(0),
        WIDTH=width, BLOCK_WIDTH=block_width, BLOCK_ROWS=block_rows, PAGE=page_size, num_warps=4,
    )  # fmt: skip
    return WidePages(wide, table)
