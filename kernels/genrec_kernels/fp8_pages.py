"""Pages that hold keys and values in eight bits, and the scales that make numbers of them.

A page holds float8 (e4m3) numbers: three bits of fraction, so that each is off by at most a
sixteenth; and one scale for the keys and one for the values of each head. A kernel that does not
know them takes a copy that is wide again: `WidePages`.

Letters in shapes: R rows, B requests, P pages, S rows a page, W pages of a request in a copy,
H heads, D head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.paged_sizes import PagedSizes

FP8 = torch.float8_e4m3fn
#: Largest number of that type.
LARGEST = float(torch.finfo(FP8).max)
#: The first GPUs that know the type.
CAPABILITY = (8, 9)
#: Why others cannot be forced to.
LACKS_FP8 = f"float8 needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]}"


class WidePages(NamedTuple):
    """Requests' pages copied as numbers of 16 or 32 bits, so that scales are in them.

    kv_pages: float [B·W, H, S, 2·D], contiguous; undefined where no row of a request sees a key.
    page_table: int32 [B, W], page b·W + w is a request's w-th.
    """

    kv_pages: Tensor
    page_table: Tensor


def num_wide_pages(max_keys: int, page_size: int) -> int:
    """W for rows that see at most `max_keys` keys; one at least, as no tensor map is of nothing."""
    return max(-(-max_keys // page_size), 1)


def wide_bytes(sizes: PagedSizes) -> int:
    """Memory of a call's `WidePages.kv_pages`."""
    rows = sizes.num_requests * num_wide_pages(sizes.max_keys, sizes.page_size) * sizes.page_size
    return rows * sizes.num_heads * 2 * sizes.head_dim * sizes.dtype.itemsize


def check_scales(kv_pages: Tensor, kv_scales: Tensor | None) -> None:
    """Pages of eight bits have scales, and no others do.

    Raises:
        ValueError: one comes without the other, or the scales have another shape or dtype.
    """
    num_heads = kv_pages.shape[1]
    if (kv_pages.dtype == FP8) != (kv_scales is not None):
        raise ValueError(
            f"kv_scales come with pages of {FP8}, and with no others: pages are {kv_pages.dtype}, "
            f"kv_scales {'missing' if kv_scales is None else 'given'}"
        )
    if kv_scales is not None and (
        kv_scales.shape != (2, num_heads) or kv_scales.dtype != torch.float32
    ):
        raise ValueError(
            f"kv_scales must be float32 [2, {num_heads}], not {kv_scales.dtype} "
            f"{list(kv_scales.shape)}"
        )


def knows_fp8(device: torch.device) -> bool:
    """Whether Triton can read and write such pages there; its interpreter can."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= CAPABILITY


def narrow(x: Tensor, scales: Tensor) -> Tensor:
    """Float [R, H, D] to float8 [R, H, D]; `scales` is float [H]. What is too large is cut."""
    return (x.float() / scales[:, None]).clamp(-LARGEST, LARGEST).to(FP8)


def widen(pages: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Float8 [P, H, S, 2·D] to numbers of `dtype`.

    Args:
        pages: keys in the first half of the last axis.
        scales: float [2, H], of keys and of values.
        dtype: of what comes out.
    """
    keys, values = pages.to(dtype).chunk(2, dim=-1)
    of_keys, of_values = scales.to(dtype)[:, None, :, None, None]
    return torch.cat([keys * of_keys, values * of_values], dim=-1)


def pages_of(kv_pages: Tensor, pages: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Some pages as numbers of `dtype`, [pages, H, S, 2·D].

    Args:
        kv_pages: [P, H, S, 2·D].
        pages: int64, which.
        scales: float [2, H] of float8 pages; None for others.
        dtype: of what comes out.
    """
    if scales is None:
        return kv_pages[pages].to(dtype)
    # Indexing knows no float8.
    return widen(kv_pages.view(torch.uint8)[pages].view(FP8), scales, dtype)
