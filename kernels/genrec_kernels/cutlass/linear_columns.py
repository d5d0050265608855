"""What the epilogue needs of a tile's columns, in shared memory: biases and scales in float32."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, const_expr

from genrec_kernels.cutlass.block_sizes import WARP_GROUP


def factor_of(variant):
    """What an output's sum and bias are times: SiLU is computed from the half of its argument."""
    return 1.0 if variant.adds else 0.5


@cute.jit
def keep_columns(variant: cutlass.Constexpr, kept, tensors, first_column, thread):
    """Write them, by one warp group.

    Args:
        variant: a `LinearVariant`.
        kept: float32 [columns, 1 or 2], biases, with fp8 also scales, both times `factor_of`.
        tensors: has `bias` and `w_scale`.
        first_column: of the tile.
        thread: of the warp group.
    """
    columns = variant.tile.columns
    num_columns = tensors.out.shape[1]
    for part in cutlass.range_constexpr(-(-columns // WARP_GROUP)):
        column = part * WARP_GROUP + thread
        if column < columns:
            # Columns past the last are computed, but not stored.
            source = cutlass.min(first_column + column, num_columns - 1)
            kept[column, 0] = Float32(tensors.bias[source]) * factor_of(variant)
            if const_expr(variant.fp8):
                kept[column, 1] = tensors.w_scale[source] * factor_of(variant)
