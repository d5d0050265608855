"""Which tiles of a paged history's keys a tile of new rows visits, and in what order.

A request's keys may be cut into equal parts, which different blocks take. A part is visited from
its last tile to its first: the tiles that need a mask come first, and those that only later rows
see, which a warp group of earlier rows passes by.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32


@cute.jit
def tiles_of_part(most: Int32, split: Int32, splits: Int32, keys: cutlass.Constexpr[int]):
    """Tiles [begin, end) of part `split` of the keys [0, most)."""
    tiles = (most + keys - 1) // keys
    length = (tiles + splits - 1) // splits
    begin = cutlass.min(split * length, tiles)
    return begin, cutlass.min(begin + length, tiles)


@cute.jit
def steps_of_group(
    least: Int32,
    most: Int32,
    begin: Int32,
    end: Int32,
    num_keys: Int32,
    has_rows: cutlass.Boolean,
    keys: cutlass.Constexpr[int],
):
    """How a warp group whose rows see `least` to `most` keys takes the steps of a part.

    Args:
        num_keys: keys that some row of the block's tile sees.

    Returns:
        unseen: it passes these first steps by (all of them if it has no rows).
        masked_end: from `unseen` to here keys need a mask; afterwards all rows see all keys.
    """
    steps = end - begin
    beyond = (most + keys - 1) // keys
    unseen = cutlass.max(end - cutlass.max(begin, beyond), 0)
    full_end = cutlass.max(cutlass.min(least // keys, end), begin)
    masked_end = cutlass.max(steps - (full_end - begin), unseen)
    # A tile's values are added in the step after it. Where they reach past the keys, as only the
    # first tile's may, that step has to be one that looks.
    if keys * (end - unseen) > num_keys:
        masked_end = cutlass.max(masked_end, cutlass.min(unseen + 2, steps))
    if not has_rows:
        unseen = steps
        masked_end = steps
    return unseen, masked_end
