"""The plain twins against loops in float64 that know nothing of padding, masks or pages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_kernels.jagged import JaggedRows
from genrec_kernels.reference import (
    hstu_attention,
    padded_hstu_attention,
    paged_hstu_attention,
)
from genrec_kernels.relative_bias import RelativeBias, time_bucket, time_bucket_boundaries

HEADS, WIDTH, N, ALPHA = 2, 8, 32, 0.35

#: (history rows, candidates) of each sequence.
LAYOUTS = [
    [(1, 0)],
    [(0, 3)],
    [(5, 0), (0, 0), (0, 2), (7, 4)],
    [(15, 1), (16, 1), (17, 1)],
    [(33, 9), (1, 1), (16, 0)],
]


@dataclass
class Case:
    rows: JaggedRows
    q: Tensor
    k: Tensor
    v: Tensor
    limits: Tensor
    times: Tensor
    bias: RelativeBias | None

    @property
    def arguments(self) -> dict[str, object]:
        return {
            "key_limits": self.limits,
            "timestamps": self.times,
            "alpha": ALPHA,
            "norm_length": N,
            "bias": self.bias,
        }


def make_case(layout: list[tuple[int, int]], *, with_bias: bool, seed: int = 0) -> Case:
    generator = torch.Generator().manual_seed(seed)
    rows = JaggedRows(
        torch.tensor([history for history, _ in layout]), torch.tensor([c for _, c in layout])
    )
    total = int(rows.lengths.sum())
    q, k, v = (
        torch.randn(total, HEADS, WIDTH, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    limits, times = [], []
    for history, candidates in layout:
        limits += [*range(history), *[history] * candidates]
        start = torch.randint(0, 10**6, (history,), generator=generator).sort().values
        times += [*start.tolist(), *[10**6 + 5] * candidates]
    bias = None
    if with_bias:
        bias = RelativeBias(
            torch.randn(20, generator=generator, dtype=torch.float64),
            torch.randn(40, generator=generator, dtype=torch.float64),
            time_bucket_boundaries(40),
        )
    return Case(
        rows,
        q,
        k,
        v,
        torch.tensor(limits, dtype=torch.int64),
        torch.tensor(times, dtype=torch.int64),
        bias,
    )


def by_loops(case: Case) -> Tensor:
    out = torch.zeros_like(case.v)
    first = 0
    for length in case.rows.lengths.tolist():
        for i in range(first, first + length):
            seen = [first + j for j in range(int(case.limits[i]))] + [i]
            for h in range(HEADS):
                for j in seen:
                    score = ALPHA * torch.dot(case.q[i, h], case.k[j, h])
                    if case.bias is not None:
                        distance = 0 if i == j else int(case.limits[i]) - (j - first)
                        apart = abs(int(case.times[i]) - int(case.times[j]))
                        bucket = min(int(math.log(max(apart, 1)) / 0.301), 39)
                        score = score + case.bias.position[min(distance, 19)]
                        score = score + case.bias.time[bucket]
                    out[i, h] += F.silu(score) / N * case.v[j, h]
        first += length
    return out


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_jagged_attention_is_the_loops(layout: list[tuple[int, int]], with_bias: bool) -> None:
    case = make_case(layout, with_bias=with_bias)
    out = hstu_attention(case.q, case.k, case.v, rows=case.rows, **case.arguments)
    torch.testing.assert_close(out, by_loops(case), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_padded_attention_is_the_loops(layout: list[tuple[int, int]], with_bias: bool) -> None:
    case = make_case(layout, with_bias=with_bias)
    bias = case.bias or RelativeBias(
        torch.zeros(1, dtype=torch.float64),
        torch.zeros(1, dtype=torch.float64),
        time_bucket_boundaries(1),
    )
    padded = padded_hstu_attention(
        *(case.rows.pad(x) for x in (case.q, case.k, case.v, case.limits, case.times)),
        bias,
        alpha=ALPHA,
        norm_length=N,
    )
    torch.testing.assert_close(case.rows.unpad(padded), by_loops(case), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_paged_attention_is_the_loops(layout: list[tuple[int, int]], page_size: int) -> None:
    case = make_case(layout, with_bias=True)
    kv_pages, time_pages, table = to_pages(case, page_size)
    out = paged_hstu_attention(
        case.q,
        case.k,
        case.v,
        kv_pages=kv_pages,
        timestamp_pages=time_pages,
        page_table=table,
        row_offsets=case.rows.offsets,
        **case.arguments,
    )
    torch.testing.assert_close(out, by_loops(case), rtol=1e-10, atol=1e-12)


def to_pages(case: Case, page_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Histories in pages in a random order; every row that is not theirs is NaN."""
    needed = [-(-n // page_size) for n in case.rows.history_lengths.tolist()]
    order = torch.randperm(sum(needed) + 3, generator=torch.Generator().manual_seed(1))
    pages = torch.full((len(order), HEADS, page_size, 2 * WIDTH), torch.nan, dtype=torch.float64)
    times = torch.full((len(order), page_size), -(10**12))
    table = torch.full((len(needed), max([*needed, 1])), 10**6)  # unused entries are out of range
    taken = 0
    for request, (count, first) in enumerate(zip(needed, case.rows.offsets.tolist(), strict=False)):
        table[request, :count] = order[taken : taken + count]
        taken += count
        for i in range(int(case.rows.history_lengths[request])):
            page, slot = int(table[request, i // page_size]), i % page_size
            pages[page, :, slot] = torch.cat([case.k[first + i], case.v[first + i]], dim=-1)
            times[page, slot] = case.times[first + i]
    return pages, times, table


def test_a_score_does_not_depend_on_batch_mates() -> None:
    case = make_case([(17, 3), (40, 8)], with_bias=True)
    together = hstu_attention(case.q, case.k, case.v, rows=case.rows, **case.arguments)
    alone = hstu_attention(
        case.q[:20],
        case.k[:20],
        case.v[:20],
        rows=JaggedRows(torch.tensor([17]), torch.tensor([3])),
        **{**case.arguments, "key_limits": case.limits[:20], "timestamps": case.times[:20]},
    )
    torch.testing.assert_close(together[:20], alone, rtol=1e-12, atol=1e-14)


def test_gradients_are_those_of_finite_differences() -> None:
    case = make_case([(3, 2), (0, 1), (2, 0)], with_bias=True)
    assert case.bias is not None
    inputs = (case.q, case.k, case.v, case.bias.position, case.bias.time)
    for tensor in inputs:
        tensor.requires_grad_()
    boundaries = case.bias.boundaries

    def run(q: Tensor, k: Tensor, v: Tensor, position: Tensor, time: Tensor) -> Tensor:
        bias = RelativeBias(position, time, boundaries)
        return hstu_attention(q, k, v, rows=case.rows, **{**case.arguments, "bias": bias})

    assert torch.autograd.gradcheck(run, inputs)


def test_no_rows_at_all() -> None:
    rows = JaggedRows(torch.tensor([0, 0]), torch.tensor([0, 0]))
    empty, none = torch.zeros(0, HEADS, WIDTH), torch.zeros(0, dtype=torch.int64)
    out = hstu_attention(
        empty, empty, empty, rows=rows, key_limits=none, timestamps=none, alpha=1.0, norm_length=4
    )
    assert out.shape == (0, HEADS, WIDTH)


@given(st.integers(min_value=-(2**62), max_value=2**62))
@settings(max_examples=300)
def test_time_bucket_is_the_formula(seconds: int) -> None:
    boundaries = time_bucket_boundaries(64)
    bucket = int(time_bucket(torch.tensor([seconds]), boundaries))
    assert 0 <= bucket <= 63
    assert int(boundaries[bucket]) <= abs(seconds) < int(boundaries[bucket + 1])
    exact = math.log(max(abs(seconds), 1)) / 0.301
    if abs(exact - round(exact)) > 1e-9:  # a float cannot tell which side of a boundary it is on
        assert bucket == min(int(exact), 63)


def test_time_bucket_on_every_boundary() -> None:
    boundaries = time_bucket_boundaries(64)
    for bound in boundaries[1:64].unique().tolist():
        below, at = time_bucket(torch.tensor([bound - 1, bound]), boundaries).tolist()
        assert below < at
        assert int(boundaries[at]) == bound
