"""Rows in eight bits, in plain PyTorch: what attention in eight bits reads, and back.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head, P places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.fp8_layout import (
    LARGEST,
    Fp8Rows,
    Fp8Scales,
    first_value_of,
    largest_factor,
    places,
    places_of,
    round_to_fp8,
)


def to_fp8(q: Tensor, k: Tensor, v: Tensor, *, offsets: Tensor, scales: Fp8Scales) -> Fp8Rows:
    """Round rows, and lay values out.

    Args:
        q, k, v: float [R, H, D].
        offsets: int64 [B + 1], first row of each sequence.
        scales: what the rounded numbers are to be times.
    """
    factor = largest_factor(q.shape[2])
    q8, k8, v8 = (
        round_to_fp8(x.float() * scale.reciprocal()[:, None], most)
        for x, scale, most in zip((q, k, v), scales, (factor, factor, LARGEST), strict=True)
    )
    num_rows, heads, width = v.shape
    # Eight bits are moved as bytes: PyTorch has few operations on them.
    vt = torch.zeros(
        heads, width, places(num_rows, offsets.shape[0] - 1), dtype=torch.uint8, device=v.device
    )
    vt[:, :, _place_of_rows(num_rows, offsets)] = v8.view(torch.uint8).permute(1, 2, 0)
    return Fp8Rows(q8, k8, vt.view(torch.float8_e4m3fn), scales)


def values_of(rows: Fp8Rows, *, offsets: Tensor) -> Tensor:
    """Values as they were before they were laid out, not yet times their scale: [R, H, D]."""
    place_R = _place_of_rows(rows.q.shape[0], offsets)
    found = rows.v.view(torch.uint8).index_select(2, place_R)
    return found.permute(2, 0, 1).contiguous().view(torch.float8_e4m3fn)


def _place_of_rows(num_rows: int, offsets: Tensor) -> Tensor:
    """int64 [R]: where each row's value is, of P."""
    row_R = torch.arange(num_rows, device=offsets.device)
    sequence_R = torch.searchsorted(offsets[1:], row_R, right=True)
    start_R = offsets[sequence_R]
    return first_value_of(start_R, sequence_R) + places_of(row_R - start_R)
