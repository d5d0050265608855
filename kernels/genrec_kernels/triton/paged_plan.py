"""Tile sizes and splits of paged attention: plain arithmetic on upper bounds, nothing measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from genrec_kernels.paged_sizes import PagedSizes

#: Keys below which a further split costs more than it brings.
SHORTEST_SPLIT = 256
#: Most parts that the keys of one tile are cut into.
MOST_SPLITS = 64


@dataclass(frozen=True, kw_only=True)
class PagedPlan:
    """How one call is cut into programs.

    block_rows, block_keys: tile of one program.
    num_warps, num_stages: as Triton means them.
    num_tiles: row tiles of the grid, an upper bound.
    packed: tiles are counted over all rows (a program looks its request up) instead of
        `tiles_per_request` for each request.
    num_splits: parts that the keys are cut into.
    max_keys: most keys that a row sees.
    tma: use the tensor memory accelerator (sm_90) for the pages, where their layout allows it.
    """

    block_rows: int
    block_keys: int
    num_warps: int
    num_stages: int
    num_tiles: int
    packed: bool
    tiles_per_request: int
    num_splits: int
    max_keys: int
    tma: bool


@dataclass(frozen=True)
class Tile:
    """Tile of one program, and how many such programs a multiprocessor holds at once."""

    rows: int
    keys: int
    warps: int
    stages: int
    resident: int


def choose_tile(
    rows_per_request: int, head_dim: int, dtype: torch.dtype, *, tma: bool, shared_memory: int
) -> Tile:
    """Tile for requests of about so many new rows each; measured on an H200.

    Args:
        rows_per_request: new rows of a request, about.
        head_dim: D.
        dtype: of q.
        tma: whether the accelerator can fetch tiles of 64 keys.
        shared_memory: bytes that one program may have.
    """
    if dtype == torch.float32:  # multiplied without tensor cores: small tiles, or registers spill
        return Tile(16, 16, 4, 2, 2)
    wide = head_dim > 128
    if rows_per_request <= 32:
        rows = 16 if rows_per_request <= 16 else 32
        if wide:
            return Tile(rows, 32, 4, 3 if shared_memory > 128 * 1024 else 2, 2)
        if tma:
            return Tile(rows, 64, 4, 3, 2)
        # Tiles over several pages hide the look-up of the pages' numbers best when long.
        return Tile(rows, 128, 4, 2, 2) if shared_memory > 128 * 1024 else Tile(rows, 64, 4, 2, 2)
    if not wide:
        return Tile(64, 64, 4, 2, 2)
    if shared_memory < 168 * 1024:
        return Tile(64, 32, 4, 2, 1)
    return Tile(64, 64, 4, 3 if tma else 2, 1)


def choose_splits(programs: int, slots: int, max_keys: int) -> int:
    """Parts of the keys so that the programs fill the GPU in whole waves.

    Args:
        programs: programs of one part.
        slots: programs that the GPU runs at once.
        max_keys: most keys that a row sees.

    Returns:
        The least number that uses at least 90 % of what the best uses.
    """
    most = max(1, min(MOST_SPLITS, max_keys // SHORTEST_SPLIT))
    used = {}
    for splits in range(1, most + 1):
        waves = -(-programs * splits // slots)
        used[splits] = programs * splits / (waves * slots)
    best = max(used.values())
    return next(splits for splits, share in used.items() if share >= 0.9 * best)


def make_plan(
    sizes: PagedSizes, *, multiprocessors: int, shared_memory: int, tma: bool
) -> PagedPlan:
    """Cut a call up.

    Args:
        sizes: of the call.
        multiprocessors: of the GPU.
        shared_memory: bytes of it that one program may have.
        tma: whether the GPU has the tensor memory accelerator.
    """
    max_new_rows = max(1, sizes.max_new_rows)
    rows_per_request = min(max_new_rows, -(-sizes.num_rows // sizes.num_requests))
    tma = tma and sizes.page_size % 64 == 0 and sizes.dtype != torch.float32
    tile = choose_tile(
        rows_per_request, sizes.head_dim, sizes.dtype, tma=tma, shared_memory=shared_memory
    )
    tiles_per_request = -(-max_new_rows // tile.rows)
    num_tiles = sizes.tiles(tile.rows)
    splits = choose_splits(
        num_tiles * sizes.num_heads, multiprocessors * tile.resident, sizes.max_keys
    )
    return PagedPlan(
        block_rows=tile.rows,
        block_keys=tile.keys,
        num_warps=tile.warps,
        num_stages=tile.stages,
        num_tiles=num_tiles,
        packed=num_tiles < sizes.num_requests * tiles_per_request,
        tiles_per_request=tiles_per_request,
        num_splits=splits,
        max_keys=max(1, sizes.max_keys),
        tma=tma,
    )
