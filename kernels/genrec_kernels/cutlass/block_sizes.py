"""Numbers that the parts of a CUTLASS kernel agree on."""

from __future__ import annotations

WARP = 32
WARP_GROUP = 128
#: Sequences that run side by side, at most: one for each lane of a warp.
MOST_SEQUENCES = WARP
#: What the loading warp tells the computing ones of a tile of rows, and of its keys.
TILE_WORDS = 10
#: Registers that a thread of the loading warp group keeps, and of a computing one gets, by
#: computing groups of a block and blocks of a multiprocessor, which has 65,536.
REGISTERS = {
    (1, 2): (56, 200),
    (1, 3): (24, 136),
    (2, 1): (40, 232),
    (3, 1): (32, 160),
}
#: The same of the linear layers, which have two computing groups.
LINEAR_REGISTERS = (24, 240)
