"""The compiled CUTLASS kernels on a Hopper GPU, against plain PyTorch in float64.

Not collected by itself, see `test_triton_kernels.py`. `make kernels` compiles what it runs.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genrec_kernels.cutlass import hstu_attention as launcher
from genrec_kernels.cutlass.bias_tiles import TILE_BYTES, new_tiles, tiles_of
from genrec_kernels.cutlass.library import compiled_kernels
from genrec_kernels.cutlass.linear_choice import all_linear_variants
from genrec_kernels.cutlass.variants import BiasTilesVariant, all_variants
from genrec_kernels.dispatch import BackendUnavailable, backend_problem, use_backend
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries

GPU = torch.device("cuda", 0)
PROBLEM = backend_problem("cutlass", GPU) if torch.cuda.is_available() else "it needs an NVIDIA GPU"
pytestmark = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))

TOLERANCE = {torch.bfloat16: 3e-3, torch.float16: 5e-4}
NUM_BUCKETS = 64
LAYOUTS = {
    "one row": [(1, 0)],
    "one candidate": [(0, 1)],
    "no history": [(0, 19), (0, 0), (0, 1)],
    "around tiles": [(63, 1), (64, 64), (65, 0), (128, 1), (127, 2), (191, 1), (192, 0)],
    "long": [(1000, 32), (0, 300), (513, 0), (128, 1), (2111, 77)],
    "many short": [(7 * i % 200, i % 5) for i in range(150)],
}


class Case:
    def __init__(
        self,
        layout: list[tuple[int, int]],
        *,
        dtype: torch.dtype = torch.bfloat16,
        width: int = 128,
        heads: int = 3,
        window: int | None = None,
        with_bias: bool = False,
        max_rows: int | None = None,
        seed: int = 0,
    ):
        random = torch.Generator("cuda").manual_seed(seed)
        self.rows = JaggedRows(
            torch.tensor([h for h, _ in layout], device=GPU),
            torch.tensor([c for _, c in layout], device=GPU),
        )
        total = sum(h + c for h, c in layout)
        wide = torch.randn(total, 3, heads, width, generator=random, device=GPU).to(dtype)
        self.q, self.k, self.v = wide.unbind(1)
        limits = [x for h, c in layout for x in [*range(h), *[h] * c]]
        self.limits = torch.tensor(limits, device=GPU)
        self.window = window
        gaps = torch.randint(0, 40_000, (total,), device=GPU, generator=random)
        self.times = 1_700_000_000 + (gaps * (gaps % 4 == 0)).cumsum(0)
        self.bias = None
        if with_bias:
            position, time = (
                torch.randn(n, device=GPU, generator=random) for n in (900, NUM_BUCKETS)
            )
            self.bias = RelativeBias(position, time, time_bucket_boundaries(NUM_BUCKETS).to(GPU))
        self.max_rows = max_rows

    def run(self, backend: str | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return hstu_attention(
            *(q, k, v),
            rows=self.rows,
            key_limits=self.limits,
            timestamps=self.times,
            bias=self.bias,
            alpha=q.shape[2] ** -0.5,
            norm_length=64,
            window=self.window,
            max_rows=self.max_rows,
            backend=backend,
        )

    def found(self) -> Tensor:
        # The next allocation of this size gets this memory.
        torch.full_like(self.v, float("nan"), memory_format=torch.contiguous_format)
        return self.run("cutlass", self.q, self.k, self.v)

    def expected(self) -> Tensor:
        return self.run("reference", self.q.double(), self.k.double(), self.v.double())

    def check(self, found: Tensor | None = None) -> None:
        expected = self.expected()
        error = ((self.found() if found is None else found) - expected).norm() / expected.norm()
        assert float(error) < TOLERANCE[self.q.dtype]


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout: list[tuple[int, int]], width: int) -> None:
    Case(layout, width=width).check()


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("window", [1, 100, 5000])
def test_windows(window: int, width: int) -> None:
    Case(LAYOUTS["long"], window=window, width=width).check()


@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_bias(layout: list[tuple[int, int]], width: int) -> None:
    Case(layout, width=width, with_bias=True).check()
    Case(layout, width=width, with_bias=True, window=70).check()


def test_bias_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(LAYOUTS["around tiles"], with_bias=True)
    at_once = case.found()
    longest = tiles_of(int(case.rows.lengths.max()))
    monkeypatch.setattr(launcher, "MOST_TILE_BYTES", 3 * longest * TILE_BYTES)
    in_turns = case.found()
    case.check(in_turns)
    assert torch.equal(in_turns, at_once)


def test_bias_that_nobody_sees_may_be_nan() -> None:
    """Memory of tiles is taken as it is."""
    case = Case(LAYOUTS["long"], with_bias=True)
    longest = int(case.rows.lengths.max())
    new_tiles(len(LAYOUTS["long"]), longest, torch.device(GPU)).fill_(-1)
    case.check()


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_half_precision(width: int, with_bias: bool) -> None:
    Case(LAYOUTS["long"], dtype=torch.float16, width=width, with_bias=with_bias).check()


def test_long_tiles_on_short_sequences() -> None:
    Case(LAYOUTS["many short"], width=64, max_rows=10_000).check()


def test_more_tiles_than_blocks_many_times() -> None:
    case = Case([(300 + i % 700, i % 40) for i in range(64)], heads=8)
    for _ in range(20):
        found = case.found()
    case.check(found)


def test_a_graph_is_replayed_for_other_lengths() -> None:
    case = Case([(500, 20), (300, 10), (90, 0)], max_rows=1024)
    case.found()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = case.run("cutlass", case.q, case.k, case.v)
        again = case.run("cutlass", case.q, case.k, case.v)
    other = Case([(80, 10), (700, 30), (100, 0)], max_rows=1024, seed=1)
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
    other.check(out)
    other.check(again)


def test_streams_at_the_same_time() -> None:
    cases = [Case(LAYOUTS["long"], seed=seed) for seed in range(4)]
    streams = [torch.cuda.Stream() for _ in cases]
    torch.cuda.synchronize()
    found: list[Tensor] = []
    for _ in range(10):
        found = []
        for case, stream in zip(cases, streams, strict=True):
            with torch.cuda.stream(stream):
                found.append(case.run("cutlass", case.q, case.k, case.v))
    torch.cuda.synchronize()
    for case, out in zip(cases, found, strict=True):
        case.check(out)


def test_the_gradient_is_tritons() -> None:
    case = Case([(200, 20), (33, 3)])
    gradients = []
    for backend in ("cutlass", "triton"):
        inputs = [x.detach().clone().requires_grad_() for x in (case.q, case.k, case.v)]
        case.run(backend, *inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for mine, theirs in zip(*gradients, strict=True):
        error = (mine.float() - theirs.float()).norm() / theirs.float().norm()
        assert float(error) < 8e-3


def test_what_runs_by_itself_and_what_cannot() -> None:
    case = Case(LAYOUTS["long"])
    assert torch.equal(case.run(None, case.q, case.k, case.v), case.found())
    wide = Case(LAYOUTS["around tiles"], width=96)
    with use_backend("cutlass"), pytest.raises(BackendUnavailable, match="heads of 64, 128, 256"):
        wide.run(None, wide.q, wide.k, wide.v)
    wide.check(wide.run(None, wide.q, wide.k, wide.v))


def test_a_copy_is_made_where_the_copy_engine_cannot_read() -> None:
    case = Case(LAYOUTS["around tiles"])
    offset = torch.empty(case.q.numel() + 1, dtype=case.q.dtype, device=GPU)[1:].view(case.q.shape)
    offset.copy_(case.q)
    case.check(case.run("cutlass", offset, case.k, case.v))


def test_all_variants_were_compiled() -> None:
    variants = [*all_variants(), BiasTilesVariant(), *all_linear_variants()]
    assert set(compiled_kernels()) == {variant.name for variant in variants}
