"""Where a bias lies that is made before attention, once for all its heads.

A tile is `EDGE` rows by as many keys of a sequence, in the order of a warp group's registers. A
thread has `VECTORS` vectors of 16 bytes of it, and those of one number lie side by side, so that a
warp reads whole lines of memory. Of a sequence only tiles on and below the diagonal have a place,
row of tiles by row of tiles, each from its first key.

Letters in shapes: B sequences, T tiles of the longest one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.cutlass.block_sizes import WARP_GROUP
from genrec_kernels.cutlass.variants import GROUP_ROWS

#: Rows, and keys, of a tile.
EDGE = GROUP_ROWS
#: Numbers of a thread in a tile, words of 32 bits of one of its vectors, and vectors.
NUMBERS = EDGE * EDGE // WARP_GROUP
WORDS = 4
VECTORS = NUMBERS // (2 * WORDS)
#: Vectors of a tile.
TILE_VECTORS = VECTORS * WARP_GROUP
TILE_BYTES = 4 * WORDS * TILE_VECTORS
#: Blocks that share a row of tiles, of the kernel that makes them.
PARTS = 4
#: A window that leaves nothing out.
NO_WINDOW = 2**30


def tiles_of(max_rows: int) -> int:
    """T, of a sequence of so many rows."""
    edge = edge_tiles(max_rows)
    return edge * (edge + 1) // 2


def edge_tiles(max_rows: int) -> int:
    """Rows of tiles of a sequence."""
    return -(-max_rows // EDGE)


def new_tiles(num_sequences: int, max_rows: int, device: torch.device) -> Tensor:
    """Memory for tiles: int32 [B · T · TILE_VECTORS, WORDS], two numbers in half precision each."""
    vectors = num_sequences * tiles_of(max_rows) * TILE_VECTORS
    return torch.empty((vectors, WORDS), dtype=torch.int32, device=device)
