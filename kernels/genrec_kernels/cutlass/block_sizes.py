"""Numbers that the parts of a CUTLASS kernel agree on."""

from __future__ import annotations

WARP = 32
WARP_GROUP = 128
#: Sequences that run side by side, at most: one for each lane of a warp.
MOST_SEQUENCES = WARP
#: What the loading warp tells the computing ones of a tile of rows, and of its keys.
TILE_WORDS = 10
