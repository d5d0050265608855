"""Writing rows into a paged cache, in plain PyTorch.

Letters in shapes: R rows, P pages, S rows a page, H heads, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.fp8_layout import places_of
from genrec_kernels.fp8_pages import keys_and_values, narrow_factors, narrow_values


def page_write(
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    *,
    kv_pages: Tensor,
    timestamps: Tensor | None = None,
    timestamp_pages: Tensor | None = None,
    kv_scales: Tensor | None = None,
    q: Tensor | None = None,
    qk_scale: float | None = None,
) -> Tensor | None:
    """Put keys, values and times of rows where their slots say.

    Args:
        k, v: float [R, H, D].
        slots: int64 [R], ``page · S + row in page``, each at most once; a negative one is skipped.
        kv_pages: float [P, H, S, 2·D], written: keys in the first half of the last axis; float8
            as `fp8_pages` lays it out.
        timestamps: int64 [R], unix seconds, or None to leave `timestamp_pages` alone.
        timestamp_pages: int64 [P, S], written.
        kv_scales: float32 [2, H] of float8 pages, see `fp8_pages`; None for others.
        q, qk_scale: float [R, H, D] to be rounded, too, and the scale of its products with keys;
            with float8 pages.

    Returns:
        `q` over ``qk_scale / kv_scales[0]`` in float8, [R, H, D]; None without.
    """
    wanted = slots >= 0
    page_R, row_R = slots[wanted] // kv_pages.shape[2], slots[wanted] % kv_pages.shape[2]
    if kv_scales is None:
        width = k.shape[2]
        kv_pages[page_R, :, row_R, :width] = k[wanted].to(kv_pages.dtype)
        kv_pages[page_R, :, row_R, width:] = v[wanted].to(kv_pages.dtype)
    else:
        # Indexing knows no float8: its bits are written.
        keys, values = (half.view(torch.uint8) for half in keys_and_values(kv_pages))
        keys[page_R, :, row_R] = narrow_factors(k[wanted], kv_scales[0]).view(torch.uint8)
        narrow = narrow_values(v[wanted], kv_scales[1])
        values[page_R, :, :, places_of(row_R)] = narrow.view(torch.uint8)
    if timestamps is not None and timestamp_pages is not None:
        timestamp_pages[page_R, row_R] = timestamps[wanted]
    if q is None or qk_scale is None or kv_scales is None:
        return None
    return narrow_factors(q, qk_scale / kv_scales[0])
