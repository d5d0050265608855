"""Writing what a warp group has summed up."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64


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


@cute.jit
def store_part(
    variant: cutlass.Constexpr,
    sums,
    partial,
    start,
    row,
    num_rows,
    head,
    split,
    column,
    inverse_norm,
    all_rows,
    heads,
):
    """Write the sums of a part of the keys, to be added to those of the other parts.

    Args:
        partial: float32 [parts · R · H, D].
    """
    for i in cutlass.range_constexpr(2):
        here = row + 8 * i
        if here < num_rows:
            line = partial[(Int64(split) * all_rows + start + here) * heads + head, None]
            for j in cutlass.range_constexpr(variant.width // 8):
                pair = cute.make_rmem_tensor(cute.make_layout(2), Float32)
                for c in cutlass.range_constexpr(2):
                    pair[c] = sums[c + 2 * i + 4 * j] * inverse_norm
                cute.autovec_copy(pair, cute.local_tile(line, (2,), (4 * j + column // 2,)))
