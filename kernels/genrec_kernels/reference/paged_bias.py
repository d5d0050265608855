"""The bias matrix of paged attention, in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.fp8_layout import LARGEST_BIAS
from genrec_kernels.paged_bias import PagedBias, num_columns
from genrec_kernels.relative_bias import RelativeBias


def paged_bias(
    bias: RelativeBias,
    *,
    timestamp_pages: Tensor,
    page_table: Tensor,
    row_offsets: Tensor,
    key_limits: Tensor,
    timestamps: Tensor,
    max_keys: int,
    same_bias: bool,
    scale: float,
    dtype: torch.dtype = torch.float32,
) -> PagedBias:
    """`PagedBias` of a layer's tables, times `scale`.

    Args:
        bias: the layer's tables.
        timestamp_pages: int64 [P, S].
        page_table: int [B, M].
        row_offsets: int [B + 1].
        key_limits, timestamps: int64 [R].
        max_keys: at least the greatest key limit.
        same_bias: one row of the matrix for each request. Those of which the rows differ in limit
            or time become NaN.
        scale: of all numbers.
        dtype: of the matrix, float32 or float16; in float16 what is beyond `LARGEST_BIAS` is cut.
    """
    starts = row_offsets.tolist()
    num_requests = len(starts) - 1
    matrix = torch.full(
        (num_requests if same_bias else len(key_limits), num_columns(max_keys)),
        torch.nan,
        device=timestamps.device,
    )
    page_size = timestamp_pages.shape[1]
    for request in range(num_requests):
        new = range(starts[request], starts[request + 1])
        if not new:
            continue
        alike = all(
            bool((x[new.start : new.stop] == x[new.start]).all()) for x in (key_limits, timestamps)
        )
        if same_bias and not alike:
            continue
        for row in new[:1] if same_bias else new:
            limit = int(key_limits[row])
            pages = page_table[request, : -(-limit // page_size)].long()
            seconds = timestamps[row] - timestamp_pages[pages].flatten()[:limit]
            distance = limit - torch.arange(limit, device=seconds.device)
            matrix[request if same_bias else row, :limit] = scale * bias(distance, seconds).float()
    if dtype == torch.float16:
        matrix = matrix.clamp(-LARGEST_BIAS, LARGEST_BIAS).half()
    return PagedBias(matrix, (scale * bias.self_bias()).float().reshape(1))
