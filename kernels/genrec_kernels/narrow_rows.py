"""Rows of a matrix in eight bits (e4m3), with a scale for each.

Letters in shapes: R rows, K width.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from genrec_kernels.fp8_layout import LARGEST, LEAST_SCALE, round_to_fp8


class NarrowRows(NamedTuple):
    """Rows in eight bits.

    numbers: float8_e4m3fn [R, K], contiguous.
    scales: float32 [R], what a row's numbers are times.
    """

    numbers: Tensor
    scales: Tensor

    def wide(self) -> Tensor:
        """float32 [R, K]."""
        return self.numbers.float() * self.scales[:, None]


def narrow_rows(x: Tensor) -> NarrowRows:
    """Rows [R, K], of a weight for example, so that the greatest number of each just fits."""
    scales = (x.float().abs().amax(dim=1) / LARGEST).clamp(min=LEAST_SCALE)
    return NarrowRows(round_to_fp8(x.float() * (1 / scales)[:, None]), scales)
