"""Pages that hold keys and values in eight bits, and the scales that make numbers of them.

A page holds float8 (e4m3) numbers: three bits of fraction, so that each is off by at most a
sixteenth; and one scale for the keys and one for the values of each head. Keys, and the queries
that meet them, are at most `largest_factor` times their scale, as scores are summed in half
precision (`fp8_layout`); values reach the greatest number of e4m3. The tensor cores want
both operands of a product in eight bits along the sum, so of each head a page has first its keys,
[S, D], and then its values the other way round, [D, S], those of every 16 keys permuted as
`fp8_layout` says. To vLLM it is a page as any other: [S, 2·D] numbers a head.

Letters in shapes: R rows, P pages, S rows a page, H heads, D head width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.fp8_layout import (
    LARGEST,
    LARGEST_BIAS,
    LEAST_PRODUCT,
    LEAST_SCALE,
    PERMUTED,
    largest_factor,
    places_of,
    round_to_fp8,
)
from genrec_kernels.relative_bias import RelativeBias

FP8 = torch.float8_e4m3fn
#: The first GPUs that know the type.
CAPABILITY = (8, 9)
#: Why others cannot be forced to.
LACKS_FP8 = f"float8 needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]}"


class KeysAndValues(NamedTuple):
    """The two halves of pages in eight bits, in the pages' memory.

    keys: float8 [P, H, S, D].
    values: float8 [P, H, D, S], by places of their keys (`fp8_layout.KEY_OF_PLACE`).
    """

    keys: Tensor
    values: Tensor


def keys_and_values(kv_pages: Tensor) -> KeysAndValues:
    """Views of float8 [P, H, S, 2·D] that passed `check_scales`."""
    num_pages, num_heads, page_size, both = kv_pages.shape
    width = both // 2
    keys, values = kv_pages.view(num_pages, num_heads, 2, page_size * width).unbind(2)
    return KeysAndValues(
        keys.view(num_pages, num_heads, page_size, width),
        values.view(num_pages, num_heads, width, page_size),
    )


def scales_for(keys: Tensor, values: Tensor, width: int) -> Tensor:
    """Scales of pages, float32 [2, H], with which so large numbers just fit.

    Args:
        keys, values: float32 [H], the greatest of each head.
        width: of a head.
    """
    scales = torch.stack([keys / largest_factor(width), values / LARGEST])
    return scales.clamp(min=LEAST_SCALE)


def qk_scale_for(
    queries: Tensor,
    kv_scales: Tensor,
    width: int,
    *,
    alpha: float,
    bias: RelativeBias | None = None,
) -> float:
    """What products of queries and keys are to be times, so that none leaves half precision.

    Args:
        queries: float32 [H], the greatest of each head.
        kv_scales: float32 [2, H], of the pages.
        width: of a head.
        alpha: of the attention.
        bias: added to scores, which has to fit, too; its tables are read on the host.
    """
    scale = float((queries / largest_factor(width) * kv_scales[0]).max())
    largest = 0.0 if bias is None else float(bias.position.abs().max() + bias.time.abs().max())
    # Queries that become smaller by it keep their digits: e4m3's least normal number is far below.
    return max(scale, LEAST_PRODUCT / alpha, largest / (LARGEST_BIAS * alpha))


def check_qk_scale(qk_scale: float | None, alpha: float) -> None:
    """Scores in half precision are not times less than that can hold.

    Raises:
        ValueError: they would be.
    """
    if qk_scale is not None and not alpha * qk_scale >= LEAST_PRODUCT:
        raise ValueError(
            f"qk_scale ({qk_scale:g}) times alpha ({alpha:g}) must be at least {LEAST_PRODUCT:g}"
        )


def check_scales(kv_pages: Tensor, kv_scales: Tensor | None) -> None:
    """Pages of eight bits have scales, and no others do.

    Raises:
        ValueError: one comes without the other, the scales have another shape or dtype, or pages
            of eight bits are not laid out as they have to be.
    """
    num_heads, page_size, width = kv_pages.shape[1:]
    if (kv_pages.dtype == FP8) != (kv_scales is not None):
        raise ValueError(
            f"kv_scales come with pages of {FP8}, and with no others: pages are {kv_pages.dtype}, "
            f"kv_scales {'missing' if kv_scales is None else 'given'}"
        )
    if kv_scales is None:
        return
    if kv_scales.shape != (2, num_heads) or kv_scales.dtype != torch.float32:
        raise ValueError(
            f"kv_scales must be float32 [2, {num_heads}], not {kv_scales.dtype} "
            f"{list(kv_scales.shape)}"
        )
    if page_size % PERMUTED or kv_pages.stride()[2:] != (width, 1):
        raise ValueError(
            f"pages of {FP8} have a multiple of {PERMUTED} rows, those of a head without a gap: "
            f"they are {list(kv_pages.shape)} with strides {kv_pages.stride()}"
        )


def knows_fp8(device: torch.device) -> bool:
    """Whether Triton can read and write such pages there; its interpreter can."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= CAPABILITY


def narrow_factors(x: Tensor, scales: Tensor) -> Tensor:
    """Queries or keys, float [R, H, D], to float8 [R, H, D]; what is too large is cut.

    Args:
        scales: float [H], what the float8 numbers are times.
    """
    return round_to_fp8(x.float() * (1 / scales)[:, None], largest_factor(x.shape[2]))


def narrow_values(x: Tensor, scales: Tensor) -> Tensor:
    """As `narrow_factors`, of values."""
    return round_to_fp8(x.float() * (1 / scales)[:, None], LARGEST)


def pages_of(kv_pages: Tensor, pages: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Some pages as numbers of `dtype`, [pages, H, S, 2·D], values by rows.

    Args:
        kv_pages: [P, H, S, 2·D].
        pages: int64, which.
        scales: float [2, H] of float8 pages; None for others.
        dtype: of what comes out.
    """
    if scales is None:
        return kv_pages[pages].to(dtype)
    # Indexing knows no float8: its bits are taken.
    keys, values = (
        half.view(torch.uint8)[pages].view(FP8).to(dtype) for half in keys_and_values(kv_pages)
    )
    rows = torch.arange(kv_pages.shape[2], device=kv_pages.device)
    values = values[..., places_of(rows)].transpose(2, 3)
    of_keys, of_values = scales.to(dtype)[:, None, :, None, None]
    return torch.cat([keys * of_keys, values * of_values], dim=-1)
