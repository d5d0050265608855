"""What the kernels of the linear layers take, before it is bytes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from genrec_kernels.cutlass.linear_variants import LinearVariant
from genrec_kernels.cutlass.parameters import Boxes, Memory, Parameter, Sizes


class RowScales(NamedTuple):
    """What rows of fp8 operands are times.

    x: float32 [R].
    weight: float32 [N].
    """

    x: Tensor
    weight: Tensor


def linear_parameters(
    variant: LinearVariant,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    scales: RowScales | None,
    out: Tensor,
    group: int,
) -> list[Parameter]:
    """Of `linear_sm90.LinearSm90.kernel`, in its order, tensors as it says."""
    tile = variant.tile
    (rows, width), columns = x.shape, weight.shape[0]
    return [
        Boxes(x, tile.block_rows),
        Sizes((rows, width)),
        Boxes(weight, tile.columns // tile.cluster_rows),
        Sizes((columns, width)),
        Memory(bias, (columns,)),
        *([] if residual is None else [Memory(residual, (rows, columns, residual.stride(0)))]),
        *([] if scales is None else [Memory(scales.x, (rows,)), Memory(scales.weight, (columns,))]),
        Memory(out, (rows, columns, out.stride(0))),
        group,
    ]
