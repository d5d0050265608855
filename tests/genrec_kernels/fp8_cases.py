"""Rows in eight bits: Triton's kernel against its plain twin; on a Hopper GPU the CUTLASS kernels
that read them, against theirs.

Not collected by itself, see `test_triton_kernels.py`. `make kernels` compiles the CUTLASS ones.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from genrec_kernels.dispatch import backend_problem
from genrec_kernels.fp8_layout import LARGEST, LARGEST_FACTOR, Fp8Rows, Fp8Scales, first_value_of
from genrec_kernels.fp8_rows import head_scales, to_fp8
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.hstu_attention_fp8 import attention_of_fp8_rows, hstu_attention_fp8
from genrec_kernels.jagged import JaggedRows

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
PROBLEM = backend_problem("cutlass", DEVICE) if ON_GPU else "it needs an NVIDIA GPU"
on_hopper = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

LAYOUTS = {
    "one row": [(1, 0)],
    "empty sequences": [(0, 0), (0, 19), (0, 0), (5, 0), (0, 0)],
    "around tiles": [(63, 1), (64, 64), (65, 0), (128, 1), (127, 2), (191, 1), (192, 0)],
    "many short": [(7 * i % 200, i % 5) for i in range(20 if not ON_GPU else 150)],
    "long": [(1000, 32), (0, 300), (513, 0), (128, 1), (2111, 77)],
}
#: Of the interpreter, which is slow.
SHORT_LAYOUTS = {name: x for name, x in LAYOUTS.items() if ON_GPU or name != "long"}


class Case:
    def __init__(self, layout: list[tuple[int, int]], *, width: int = 128, heads: int = 3):
        self.random = torch.Generator(DEVICE).manual_seed(0)
        self.rows = JaggedRows(
            torch.tensor([h for h, _ in layout], device=DEVICE),
            torch.tensor([c for _, c in layout], device=DEVICE),
        )
        limits = [x for h, c in layout for x in [*range(h), *[h] * c]]
        self.limits = torch.tensor(limits, device=DEVICE)
        wide = torch.randn(len(limits), 3, heads, width, generator=self.random, device=DEVICE)
        self.q, self.k, self.v = wide.bfloat16().unbind(1)

    def run(self, backend: str | None, **options: object) -> Tensor:
        return hstu_attention_fp8(
            *(self.q, self.k, self.v),
            rows=self.rows,
            key_limits=self.limits,
            alpha=self.q.shape[2] ** -0.5,
            norm_length=64,
            backend=backend,
            **options,
        )


def bits(x: Tensor) -> Tensor:
    return x.view(torch.uint8)


def places_of_sequences(rows: JaggedRows, vt: Tensor) -> list[Tensor]:
    """The places that a kernel may read of each sequence: whole tiles."""
    found = []
    for i, length in enumerate(rows.lengths.tolist()):
        first = first_value_of(int(rows.offsets[i]), i)
        found.append(bits(vt)[:, :, first : first + -(-length // 128) * 128])
    return found


def assert_same(found: Fp8Rows, expected: Fp8Rows, rows: JaggedRows) -> None:
    assert torch.equal(bits(found.q), bits(expected.q))
    assert torch.equal(bits(found.k), bits(expected.k))
    pairs = zip(
        places_of_sequences(rows, found.v), places_of_sequences(rows, expected.v), strict=True
    )
    for mine, theirs in pairs:
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("width", [64, 96, 128, 256])
@pytest.mark.parametrize("layout", SHORT_LAYOUTS.values(), ids=SHORT_LAYOUTS)
def test_rows_and_places(layout: list[tuple[int, int]], width: int) -> None:
    """Numbers that e4m3 has: Triton's interpreter rounds others its own way."""
    case = Case(layout, width=width, heads=2)
    values = torch.tensor([0, 1, -1.5, 0.25, 14, -13, 2.0**-6], device=DEVICE)
    scales = Fp8Scales(*(torch.tensor([s, 4 * s], device=DEVICE) for s in (0.5, 2.0, 1.0)))
    chosen = torch.randint(0, 7, (3, *case.q.shape), generator=case.random, device=DEVICE)
    wide = torch.stack([values[c] * s[:, None] for c, s in zip(chosen, scales, strict=True)], 1)
    q, k, v = wide.bfloat16().unbind(1)
    found, expected = (
        to_fp8(q, k, v, rows=case.rows, scales=scales, backend=b) for b in ("triton", "reference")
    )
    assert_same(found, expected, case.rows)
    assert torch.equal(found.q.float() * scales.q[:, None], q.float())


def test_numbers_beyond_the_range_and_none() -> None:
    case = Case([(3, 0)], heads=1)
    q = torch.tensor([1e6, -1e6, math.nan], device=DEVICE)[:, None, None].expand(3, 1, 128)
    ones = torch.ones(1, device=DEVICE)
    scales = Fp8Scales(ones, ones, ones)
    for backend in ("triton", "reference"):
        found = to_fp8(q, q, q, rows=case.rows, scales=scales, backend=backend)
        assert found.q[:2].float().abs().eq(LARGEST_FACTOR[128]).all()
        if ON_GPU or backend == "reference":  # the interpreter makes a number of it
            assert found.q[2].isnan().all()
        assert found.v.float()[..., 0].eq(LARGEST).all()


@pytest.mark.skipif(not ON_GPU, reason="Triton's interpreter does not round to the nearest")
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_rounding(layout: list[tuple[int, int]]) -> None:
    case = Case(layout)
    scales = head_scales(case.q, case.k, case.v)
    found, expected = (
        to_fp8(case.q, case.k, case.v, rows=case.rows, scales=scales, backend=backend)
        for backend in ("triton", "reference")
    )
    assert_same(found, expected, case.rows)


@on_hopper
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_attention(layout: list[tuple[int, int]], width: int) -> None:
    case = Case(layout, width=width)
    # The next allocation of this size gets this memory.
    torch.full_like(case.v, math.nan, memory_format=torch.contiguous_format)
    found, expected = (case.run(backend).double() for backend in ("cutlass", "reference"))
    # Of the weights some round the other way: the kernel's tanh is within 2^-11, and the tensor
    # cores add with fewer bits than float32 has. One that does is a sixteenth of a lone weight.
    allowed = 2e-2 if len(found) > 1 else 7e-2
    assert float((found - expected).norm() / expected.norm()) < allowed


@on_hopper
def test_attention_is_near_that_of_16_bits() -> None:
    case = Case(LAYOUTS["long"])
    found = case.run(None).double()
    expected = hstu_attention(
        *(x.double() for x in (case.q, case.k, case.v)),
        rows=case.rows,
        key_limits=case.limits,
        timestamps=case.limits,
        alpha=case.q.shape[2] ** -0.5,
        norm_length=64,
        backend="reference",
    )
    # The twin is 0.055 from it; the tensor cores' sums have fewer bits than the twin's.
    assert float((found - expected).norm() / expected.norm()) < 0.08


@on_hopper
def test_a_sequence_cannot_spoil_another() -> None:
    case = Case([(300, 9), (100, 5), (77, 3)])
    scales = head_scales(case.q, case.k, case.v)
    clean = case.run("cutlass", scales=scales)
    begin, end = case.rows.offsets[1:3].tolist()
    for x in (case.q, case.k, case.v):
        x[begin:end] = math.nan
    spoiled = case.run("cutlass", scales=scales)
    assert torch.equal(clean[:begin], spoiled[:begin])
    assert torch.equal(clean[end:], spoiled[end:])


@on_hopper
def test_a_graph_is_replayed_for_other_lengths() -> None:
    case, other = Case([(500, 20), (300, 10), (90, 0)]), Case([(80, 10), (700, 30), (100, 0)])
    case.run("cutlass", max_rows=1024)
    assert case.rows.offsets.shape == other.rows.offsets.shape
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.run("cutlass", max_rows=1024)
    expected = other.run("cutlass")
    for mine, theirs in (
        (case.q, other.q),
        (case.k, other.k),
        (case.v, other.v),
        (case.limits, other.limits),
        (case.rows.offsets, other.rows.offsets),
        (case.rows.history_lengths, other.rows.history_lengths),
    ):
        mine.copy_(theirs)
    for _ in range(3):
        graph.replay()
    assert torch.equal(out, expected)


@on_hopper
def test_more_tiles_than_blocks_many_times() -> None:
    case = Case([(300 + i % 700, i % 40) for i in range(64)], heads=8)
    operands = to_fp8(case.q, case.k, case.v, rows=case.rows)
    found = [
        attention_of_fp8_rows(
            operands,
            rows=case.rows,
            key_limits=case.limits,
            alpha=0.1,
            norm_length=64,
            backend="cutlass",
        )
        for _ in range(20)
    ]
    assert all(torch.equal(x, found[0]) for x in found)
