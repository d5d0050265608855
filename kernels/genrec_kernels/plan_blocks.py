"""Numbers that planning a bias and the attention kernels must agree on."""

from __future__ import annotations

#: Rows of a block of a `TimePlan`.
BLOCK_ROWS = 32
#: Blocks of the longest side that a tile of scores may have.
EDGE_BLOCKS = 4
#: Entry of a block whose differences may have either sign: all buckets.
UNORDERED = 0xFF00
#: Entry of a block that no row sees: no buckets.
NEVER_SEEN = 0x00FF
#: Seconds are kept from the middle of a sequence's times, cut to this.
FARTHEST = 2**30 - 1
#: Cells of time differences: none, then 8 for each octave up to 2^31.
TIME_CELLS = 1 + 31 * 8
#: Most bucket boundaries in a tile's time differences that are compared one by one.
MOST_STEPS = 4


def num_blocks(rows: int) -> int:
    """Blocks of a sequence's side, so many that every tile that holds a row fits."""
    edge = BLOCK_ROWS * EDGE_BLOCKS
    return (rows + edge - 1) // edge * EDGE_BLOCKS
