"""Float8 pages of requests as wider numbers, in plain PyTorch.

Letters in shapes: R new rows, B requests, P pages, S rows a page, M pages of the longest request,
W pages of a request in the copy, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.fp8_pages import WidePages, num_wide_pages, pages_of


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
    """A copy of the pages that requests' rows see, in order, and the page table of the copy.

    Numbers are multiplied by their scales in float32 and then rounded to `dtype`, once, where
    `fp8_pages.widen` rounds the scales too.

    Args:
        kv_pages: float8 [P, H, S, 2·D], keys in the first half of the last axis.
        kv_scales: float32 [2, H], of keys and of values.
        page_table: int [B, M]; entries past the last key that a row of the request sees are
            never read.
        row_offsets: int [B + 1], first new row of each request.
        key_limits: int64 [R], in any order.
        max_keys: at least the greatest key limit.
        dtype: of the copy.

    Returns:
        The copy, NaN where no row of a request sees a page.
    """
    num_requests, (num_heads, page_size, width) = page_table.shape[0], kv_pages.shape[1:]
    columns = num_wide_pages(max_keys, page_size)
    shape = (num_requests, columns, num_heads, page_size, width)
    wide = torch.full(shape, torch.nan, dtype=dtype, device=kv_pages.device)
    starts = row_offsets.tolist()
    for request in range(num_requests):
        limits = key_limits[starts[request] : starts[request + 1]]
        if len(limits) == 0:
            continue
        seen = -(-int(limits.max()) // page_size)
        pages = page_table[request, :seen].long()
        wide[request, :seen] = pages_of(kv_pages, pages, kv_scales, torch.float32).to(dtype)
    table = torch.arange(num_requests * columns, dtype=torch.int32, device=kv_pages.device)
    return WidePages(wide.flatten(0, 1), table.view(num_requests, columns))
