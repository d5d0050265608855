"""The time plan of Triton's kernels against its plain twin, and what the attention makes of it.

Run by `test_triton_kernels.py`, as `hstu_attention_cases.py` is.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.plan_blocks import BLOCK_ROWS, EDGE_BLOCKS, NEVER_SEEN, UNORDERED, num_blocks
from genrec_kernels.relative_bias import time_bucket, time_bucket_boundaries
from genrec_kernels.time_plan import plan_times

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOUNDARIES = time_bucket_boundaries(64).to(DEVICE)
NOW = 1_700_000_000


def written(lengths: list[int], blocks: int) -> Tensor:
    """bool [B, G, G]: entries that a kernel may read, which are those that are defined."""
    wanted = torch.zeros(len(lengths), blocks, blocks, dtype=torch.bool)
    for sequence, length in enumerate(lengths):
        for block in range(num_blocks(length)):
            wanted[sequence, block, : (block // EDGE_BLOCKS + 1) * EDGE_BLOCKS] = True
    return wanted


def times_of(kind: str, lengths: list[int]) -> Tensor:
    random = torch.Generator().manual_seed(3)
    parts = []
    for length in lengths:
        gaps = torch.exp(torch.rand(length, generator=random) * 15).long()
        times = NOW + gaps.cumsum(0)
        if kind == "shuffled":
            times = times[torch.randperm(length, generator=random)]
        elif kind == "one missing" and length > 1:
            times[1] = 0
        elif kind == "equal":
            times = torch.full_like(times, NOW)
        parts.append(times)
    return torch.cat(parts).to(DEVICE)


@pytest.mark.parametrize("kind", ["sessions", "shuffled", "one missing", "equal"])
@pytest.mark.parametrize("lengths", [[1], [32, 33, 0, 31], [300, 5], [0, 129, 128, 127]], ids=str)
def test_as_its_twin(lengths: list[int], kind: str) -> None:
    times = times_of(kind, lengths)
    history = torch.tensor(lengths, device=DEVICE)
    rows = JaggedRows(history, torch.zeros_like(history))
    room = max(lengths) + 40
    plan = plan_times(times, rows=rows, boundaries=BOUNDARIES, max_rows=room, backend="triton")
    assert plan is not None
    seconds, buckets = reference.plan_times(times, rows.offsets, BOUNDARIES, room)
    assert torch.equal(plan.seconds, seconds)
    wanted = written(lengths, num_blocks(room)).to(DEVICE)
    assert torch.equal(plan.buckets[wanted], buckets[wanted])


@pytest.mark.parametrize("kind", ["sessions", "shuffled"])
def test_every_difference_lies_in_its_block(kind: str) -> None:
    times = times_of(kind, [200])
    _, buckets = reference.plan_times(times, torch.tensor([0, 200], device=DEVICE), BOUNDARIES, 200)
    entry = buckets[0].int() & 0xFFFF
    assert UNORDERED in entry
    assert NEVER_SEEN in entry
    for row in range(200):
        for key in range(0, row + 1, 7):
            bucket = int(time_bucket(times[row] - times[key], BOUNDARIES))
            block = int(entry[row // BLOCK_ROWS, key // BLOCK_ROWS])
            assert (block & 255) <= bucket <= (block >> 8)


def test_no_rows() -> None:
    none = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    plan = plan_times(
        none[:0], rows=JaggedRows(none, none), boundaries=BOUNDARIES, backend="triton"
    )
    assert plan is not None
    assert plan.seconds.shape == (0,)


def test_the_reference_needs_none() -> None:
    one = torch.ones(1, dtype=torch.int64, device=DEVICE)
    rows = JaggedRows(one, one)
    times = one.repeat(2)
    assert plan_times(times, rows=rows, boundaries=BOUNDARIES, backend="reference") is None
