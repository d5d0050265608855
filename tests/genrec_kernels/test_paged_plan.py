"""How a call of paged attention is cut up: plain arithmetic, no GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from genrec_kernels.paged_sizes import PagedSizes
from genrec_kernels.triton.paged_plan import PagedPlan, choose_splits, choose_tile, make_plan

H200 = {"multiprocessors": 132, "shared_memory": 227 * 1024, "tma": True}
SIZES = PagedSizes(
    num_rows=512,
    num_requests=32,
    num_heads=4,
    head_dim=128,
    page_size=64,
    dtype=torch.bfloat16,
    max_new_rows=512,
    max_keys=8192,
    has_bias=True,
    same_bias=False,
)


def plan(**changes: object) -> PagedPlan:
    return make_plan(replace(SIZES, **changes), **H200)


@pytest.mark.parametrize(("programs", "keys"), [(128, 8192), (1, 10**6), (500, 4096), (7, 300)])
def test_splits_fill_whole_waves(programs: int, keys: int) -> None:
    splits = choose_splits(programs, 264, keys)
    assert 1 <= splits <= max(1, keys // 256)
    full = programs * splits
    share = full / (-(-full // 264) * 264)
    least = programs / (-(-programs // 264) * 264)
    assert share >= least


def test_no_split_where_rows_fill_the_gpu() -> None:
    assert plan(num_rows=32 * 4096, max_new_rows=4096).num_splits == 1


def test_a_known_bound_on_rows_saves_tiles() -> None:
    loose, tight = plan(), plan(max_new_rows=16)
    assert (loose.packed, loose.num_tiles) == (True, 512 // 16 + 32)
    assert (tight.packed, tight.num_tiles) == (False, 32)


@pytest.mark.parametrize("rows", [[1] * 9, [16, 0, 17, 300], [0], [15, 16, 17, 64, 65]])
def test_packed_tiles_are_enough(rows: list[int]) -> None:
    made = plan(num_rows=sum(rows), num_requests=len(rows), max_new_rows=sum(rows))
    block = made.block_rows
    if made.packed:
        first = 0
        for request, count in enumerate(rows):
            begin = first // block + request
            end = (first + count) // block + request + 1
            assert (end - begin) * block >= count
            first += count
        assert made.num_tiles >= first // block + len(rows)
    else:
        assert made.num_tiles == len(rows) * max(1, -(-sum(rows) // block))


@pytest.mark.parametrize("head_dim", [32, 64, 128, 256])
@pytest.mark.parametrize("rows", [1, 16, 17, 64, 300])
@pytest.mark.parametrize("tma", [False, True])
@pytest.mark.parametrize("kib", [99, 163, 227])
def test_tiles_fit_in_shared_memory(head_dim: int, rows: int, tma: bool, kib: int) -> None:
    """99 KiB: RTX and L20; 163: A100; 227: H100 and later, the only ones with the accelerator."""
    if tma and kib != 227:
        return
    tile = choose_tile(rows, head_dim, torch.bfloat16, tma=tma, shared_memory=kib * 1024)
    query, pair = tile.rows * head_dim * 2, tile.keys * head_dim * 4
    assert query + pair * max(tile.stages - 1 if not tma else tile.stages, 1) <= kib * 1024
