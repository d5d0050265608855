"""Writing what a warp group has summed up."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32


@cute.jit
def store(
    variant: cutlass.Constexpr, sums, out, start, row, num_rows, head, column, inverse_norm, dtype
):
    """Write a thread's two rows, two neighbouring columns at a time."""
    pairs_out = cute.recast_tensor(out, Int32)
    rounded = cute.make_rmem_tensor(sums.layout, dtype)
    rounded.store((sums.load() * inverse_norm).to(dtype))
    pairs = cute.recast_tensor(rounded, Int32)
    for i in cutlass.range_constexpr(2):
        here = row + 8 * i
        if here < num_rows:
            for j in cutlass.range_constexpr(variant.width // 8):
                pairs_out[start + here, head, 4 * j + column // 2] = pairs[i + 2 * j]
