"""How blocks share the tiles of query rows among them.

Blocks claim tiles by counting up one number. Tiles are ordered so that sequences of a group, few
enough for their keys and values to stay in the L2 cache, come together; in a group the last rows,
which see most keys, come first, which leaves the short work for when multiprocessors fall idle.
Only tiles that have rows are counted.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32


@cute.jit
def tiles_of_lane(
    offsets: cute.Tensor,
    first_sequence: Int32,
    group: Int32,
    rows: cutlass.Constexpr[int],
):
    """Tiles of the sequence that a lane looks after: 0 if there is none."""
    sequence = first_sequence + cute.arch.lane_idx()
    tiles = Int32(0)
    if cute.arch.lane_idx() < group and sequence < cute.size(offsets) - 1:
        num_rows = Int32(offsets[sequence + 1] - offsets[sequence])
        tiles = (num_rows + rows - 1) // rows
    return tiles


@cute.jit
def find_tile(
    index: Int32,
    offsets: cute.Tensor,
    heads: Int32,
    group: Int32,
    first_sequence: Int32,
    tiles: Int32,
    level: Int32,
    passed: Int32,
    rows: cutlass.Constexpr[int],
):
    """The tile with number `index`; a warp calls it with numbers that rise.

    Args:
        index: the number.
        group: sequences of a group, at most `block_sizes.MOST_SEQUENCES`.
        first_sequence, tiles, level, passed: where the search stands: the group, this lane's
            tiles in it, the tile that is looked for in each sequence, and the tiles before.

    Returns:
        Sequence (-1 if there are fewer tiles), head and tile of rows; where the search stands.
    """
    lane = cute.arch.lane_idx()
    num_sequences = Int32(cute.size(offsets)) - 1
    having = cute.arch.vote_ballot_sync(tiles > cutlass.max(level, 0))
    searching = first_sequence < num_sequences
    while searching:
        here = cute.arch.popc(having) * heads
        if index < passed + here:
            searching = Boolean(False)
        else:
            passed += here
            level -= 1
            if level < 0:
                first_sequence += group
                tiles = tiles_of_lane(offsets, first_sequence, group, rows)
                level = cute.arch.warp_redux_sync(tiles, "max") - 1
            having = cute.arch.vote_ballot_sync(tiles > cutlass.max(level, 0))
            searching = first_sequence < num_sequences
    sequence = Int32(-1)
    head = Int32(0)
    if first_sequence < num_sequences:
        place = (index - passed) // heads
        head = (index - passed) % heads
        before = cute.arch.popc(having & ((Int32(1) << lane) - 1))
        chosen = Int32(0)
        if tiles > level and before == place:
            chosen = lane
        sequence = first_sequence + cute.arch.warp_redux_sync(chosen, "max")
    return sequence, head, level, first_sequence, tiles, level, passed
