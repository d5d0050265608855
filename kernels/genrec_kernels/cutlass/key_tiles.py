"""Which tiles of keys a tile of query rows visits, and in what order.

The order is from the last key to the first: candidates' own keys, then history. So the tiles that
a warp group of later rows sees and one of earlier rows does not come first, and the earlier one
passes them by; the tiles that need no mask come after those that do.

Letters: M query rows and N keys of a tile.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr

from genrec_kernels.cutlass.block_sizes import WARP


@cute.jit
def limit_of(limits: cute.Tensor, start: Int32, row: Int32, num_history: Int32 | None):
    """Keys that a row of a sequence sees besides itself; the row must be one of its rows.

    Args:
        num_history: a row sees at most these, and those before it; None where keys are in pages.
    """
    limit = Int32(limits[start + row])
    if const_expr(num_history is not None):
        limit = cutlass.min(cutlass.min(limit, row), num_history)
    return limit


@cute.jit
def limits_of_rows(
    limits: cute.Tensor,
    start: Int32,
    first_row: Int32,
    num_rows: Int32,
    num_history: Int32 | None,
    rows: cutlass.Constexpr[int],
):
    """Least and greatest key limit of `rows` rows, the same in every lane of a warp.

    Args:
        limits: int64 [R]; `start` is the sequence's first row in it.
    """
    least = Int32(0x7FFFFFFF)
    most = Int32(0)
    for part in cutlass.range_constexpr(rows // WARP):
        row = first_row + part * WARP + cute.arch.lane_idx()
        if row < num_rows:
            limit = limit_of(limits, start, row, num_history)
            least = cutlass.min(least, limit)
            most = cutlass.max(most, limit)
    return (
        cute.arch.warp_redux_sync(least, "min"),
        cute.arch.warp_redux_sync(most, "max"),
    )


@cute.jit
def key_tiles(
    first_row: Int32,
    num_rows: Int32,
    num_history: Int32,
    least: Int32,
    most: Int32,
    window: Int32,
    rows: cutlass.Constexpr[int],
    keys: cutlass.Constexpr[int],
    has_window: cutlass.Constexpr[bool],
):
    """Tiles of keys, by index: (own_begin, own_end, begin, end).

    Tiles [begin, end) hold history that some row sees; [own_begin, own_end), past them, hold
    candidates among the rows, which see themselves.
    """
    last_row = cutlass.min(first_row + rows, num_rows)
    own_history = Int32(0)
    if first_row < num_history:
        own_history = cutlass.min(last_row, num_history)
    end = (cutlass.max(most, own_history) + keys - 1) // keys
    begin = Int32(0)
    if const_expr(has_window):
        begin = cutlass.min(cutlass.max(least - window, 0) // keys, end)
    own_begin = cutlass.max(end, cutlass.max(first_row, num_history) // keys)
    own_end = own_begin
    if last_row > num_history:
        own_end = cutlass.max((last_row + keys - 1) // keys, own_begin)
    return own_begin, own_end, begin, end


@cute.jit
def tile_at(step: Int32, own_begin: Int32, own_end: Int32, end: Int32):
    """The tile that is visited as the `step`-th."""
    own = own_end - own_begin
    tile = end - 1 - (step - own)
    if step < own:
        tile = own_end - 1 - step
    return tile


@cute.jit
def warp_group_steps(
    first_row: Int32,
    num_rows: Int32,
    least: Int32,
    most: Int32,
    window: Int32,
    own_begin: Int32,
    own_end: Int32,
    begin: Int32,
    end: Int32,
    rows: cutlass.Constexpr[int],
    keys: cutlass.Constexpr[int],
    has_window: cutlass.Constexpr[bool],
):
    """How the warp group with rows from `first_row` takes a tile's steps.

    Returns:
        unseen: it passes these first steps by (all of them if it has no rows).
        masked_end: from `unseen` to here keys need a mask.
        full_end: from `masked_end` to here all rows see all keys; the rest need a mask again,
            and there is a rest only with a window.
    """
    steps = own_end - own_begin + end - begin
    last_row = cutlass.min(first_row + rows, num_rows)
    beyond = (last_row + keys - 1) // keys
    unseen = cutlass.max(own_end - cutlass.max(own_begin, beyond), 0)
    unseen += cutlass.max(end - cutlass.max(begin, beyond), 0)
    full_end_tile = cutlass.max(cutlass.min(least // keys, end), begin)
    full_begin_tile = begin
    if const_expr(has_window):
        full_begin_tile = (cutlass.max(most - window, 0) + keys - 1) // keys
        full_begin_tile = cutlass.min(cutlass.max(full_begin_tile, begin), full_end_tile)
    masked_end = steps - (full_end_tile - begin)
    full_end = steps - (full_begin_tile - begin)
    # A tile's values are added in the step after it. Where they reach past the sequence, as only
    # the first tile's may, that step has to be one that looks.
    if keys * (tile_at(unseen, own_begin, own_end, end) + 1) > num_rows:
        masked_end = cutlass.max(masked_end, cutlass.min(unseen + 2, full_end))
    if first_row >= num_rows:
        unseen = steps
        masked_end = steps
        full_end = steps
    return unseen, masked_end, full_end
