"""Triton's paged attention and page write against their plain twins.

Not collected by itself: `test_triton_kernels.py` runs it in a process of its own, on the GPU or,
without one, in Triton's interpreter, which must be chosen before Triton is first imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.dispatch import BackendUnavailable, backend_problem
from genrec_kernels.fp8_pages import FP8, LARGEST
from genrec_kernels.page_write import page_write
from genrec_kernels.paged_hstu_attention import paged_hstu_attention
from genrec_kernels.reference.page_write import page_write as page_write_reference
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries
from genrec_kernels.triton import paged_bias as triton_paged_bias
from genrec_kernels.triton import paged_hstu_attention as kernels
from genrec_kernels.triton.paged_bias import paged_bias
from genrec_kernels.triton.paged_plan import PagedPlan

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

#: Largest error relative to the twin in float64, by the norm of the whole tensor.
#: The interpreter cuts bfloat16 off where a GPU rounds.
TOLERANCE = {torch.bfloat16: 3e-3 if ON_GPU else 1e-2, torch.float16: 5e-4, torch.float32: 1e-5}

#: (cached rows, new rows) of each request, with pages of 16.
LAYOUTS = {
    "nothing": [(0, 0), (7, 0)],
    "one row of nothing": [(0, 1)],
    "no history": [(0, 19), (0, 0), (0, 1)],
    "page - 1, page, page + 1": [(15, 2), (16, 2), (17, 2)],
    "odd lengths": [(70, 3), (5, 0), (33, 20), (0, 1), (129, 17), (16, 5)],
}
AT_SIZE = {
    "long": [(8191, 16), (3000, 300), (4096, 256), (1, 1), (0, 65)],
    "many short": [(7 * i % 300, i % 40) for i in range(300)],
}
if ON_GPU:
    LAYOUTS |= AT_SIZE


@dataclass(frozen=True)
class Case:
    q: Tensor
    k: Tensor
    v: Tensor
    kv_pages: Tensor
    timestamp_pages: Tensor
    page_table: Tensor
    row_offsets: Tensor
    key_limits: Tensor
    timestamps: Tensor
    bias: RelativeBias | None
    kv_scales: Tensor | None = None
    alpha: float = 0.3
    norm_length: int = 64

    @property
    def rows(self) -> dict[str, Tensor]:
        return {"q": self.q, "k": self.k, "v": self.v}

    @property
    def options(self) -> dict[str, object]:
        names = (
            "kv_pages", "timestamp_pages", "page_table", "row_offsets", "key_limits",
            "timestamps", "bias", "kv_scales", "alpha", "norm_length",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}

    def expected(self) -> Tensor:
        bias = self.bias and RelativeBias(
            self.bias.position.double(), self.bias.time.double(), self.bias.boundaries
        )
        wide = {name: x.double() for name, x in self.rows.items()}
        pages, scales = self.kv_pages, self.kv_scales
        options = {**self.options, "bias": bias}
        if scales is None:
            options["kv_pages"] = pages.double()
        else:
            options["kv_scales"] = scales.double()
        return reference.paged_hstu_attention(**wide, **options)

    def check(self, out: Tensor) -> None:
        expected = self.expected()
        assert out.dtype == self.q.dtype
        assert out.shape == expected.shape
        assert bool(out.isfinite().all())
        error = (out.double() - expected).norm() / expected.norm().clamp(min=1e-30)
        assert float(error) <= TOLERANCE[self.q.dtype]


def make_case(
    layout: list[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    page: int = 16,
    heads: int = 2,
    width: int = 16,
    with_bias: bool = True,
    candidates: bool = False,
    num_buckets: int = 64,
    span: int = 10**8,
    seed: int = 0,
) -> Case:
    """Histories in pages in random order. Rows that are no history's are NaN, and the page table
    points outside of the cache past each history's last page."""
    g = torch.Generator().manual_seed(seed)
    total = sum(new for _, new in layout)
    needed = [-(-cached // page) for cached, _ in layout]
    order = torch.randperm(sum(needed) + 2, generator=g)
    pages = torch.full((len(order), heads, page, 2 * width), torch.nan)
    times = torch.full((len(order), page), -(10**15))
    table = torch.full((len(layout), max([*needed, 1])), 10**8, dtype=torch.int32)
    taken, limits, row_times = 0, [], []
    for request, (cached, new) in enumerate(layout):
        own = order[taken : taken + needed[request]]
        taken += needed[request]
        table[request, : len(own)] = own.int()
        where = torch.arange(cached)
        at = own[where // page], where % page
        pages[at[0], :, at[1]] = torch.randn(cached, heads, 2 * width, generator=g)
        times[at] = torch.randint(0, span, (cached,), generator=g).sort().values
        if candidates or request % 2:
            limits.append(torch.full((new,), cached))
            row_times.append(torch.full((new,), span + 5))
        else:  # history rows, of which the pages hold some already
            limits.append(torch.randint(0, cached + 1, (new,), generator=g))
            row_times.append(torch.randint(0, span, (new,), generator=g))
    bias = None
    if with_bias:
        bias = RelativeBias(
            torch.randn(50, generator=g).to(DEVICE),
            torch.randn(num_buckets, generator=g).to(DEVICE),
            time_bucket_boundaries(num_buckets).to(DEVICE),
        )
    # As a layer has them: thirds of one matrix's rows.
    qkv = torch.randn(total, 3, heads, width, generator=g).to(DEVICE, dtype)
    offsets = torch.tensor([0, *(new for _, new in layout)]).cumsum(0)
    return Case(
        *qkv.unbind(1),
        kv_pages=pages.to(DEVICE, dtype),
        timestamp_pages=times.to(DEVICE),
        page_table=table.to(DEVICE),
        row_offsets=offsets.to(DEVICE),
        key_limits=torch.cat(limits).to(DEVICE),
        timestamps=torch.cat(row_times).to(DEVICE),
        bias=bias,
    )


def narrowed(case: Case) -> Case:
    """The case with pages in eight bits, of which the rows that are no history's stay NaN."""
    heads = case.kv_pages.shape[1]
    scales = torch.linspace(0.003, 0.02, 2 * heads, device=DEVICE).reshape(2, heads)
    of_heads = scales[:, None, :, None, None].expand(2, 1, heads, 1, case.q.shape[2])
    numbers = case.kv_pages.float() / torch.cat(list(of_heads), dim=-1)
    return replace(case, kv_pages=numbers.clamp(-LARGEST, LARGEST).to(FP8), kv_scales=scales)


def run(case: Case, **options: object) -> Tensor:
    return paged_hstu_attention(**case.rows, **case.options, backend="triton", **options)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs start as NaN, so that a row nobody writes shows."""
    empty = torch.empty

    def poisoned(*args: object, **options: object) -> Tensor:
        out = empty(*args, **options)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_equals_the_twin(layout: list[tuple[int, int]], with_bias: bool) -> None:
    case = make_case(layout, with_bias=with_bias)
    case.check(run(case))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("candidates", [False, True])
def test_dtypes(dtype: torch.dtype, candidates: bool) -> None:
    case = make_case(LAYOUTS["odd lengths"], dtype=dtype, candidates=candidates, width=32)
    case.check(run(case))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("page", "width"), [(16, 32), (64, 64)] + [(64, 128), (64, 256)] * ON_GPU)
@pytest.mark.parametrize("with_bias", [False, True])
def test_pages_of_eight_bits(dtype: torch.dtype, page: int, width: int, with_bias: bool) -> None:
    layout = LAYOUTS["odd lengths"] + AT_SIZE["long"] * ON_GPU
    case = narrowed(make_case(layout, dtype=dtype, page=page, width=width, with_bias=with_bias))
    case.check(run(case))
    same = narrowed(make_case(layout, dtype=dtype, page=page, width=width, candidates=True))
    same.check(run(same, same_bias=True, max_new_rows=max(new for _, new in layout)))


def test_scales_come_with_pages_of_eight_bits() -> None:
    case = make_case([(5, 2)])
    with pytest.raises(ValueError, match="kv_scales missing"):
        run(replace(case, kv_pages=case.kv_pages.to(FP8)))
    with pytest.raises(ValueError, match="kv_scales given"):
        run(replace(case, kv_scales=torch.ones(2, 2, device=DEVICE)))
    narrow = narrowed(case)
    assert narrow.kv_scales is not None
    with pytest.raises(ValueError, match=r"must be float32 \[2, 2\]"):
        run(replace(narrow, kv_scales=narrow.kv_scales[:1]))


@pytest.mark.parametrize("page", [16, 48, 64])
@pytest.mark.parametrize("width", [24, 50, 64] + [128, 256] * ON_GPU)
def test_widths_and_page_sizes(width: int, page: int) -> None:
    """Without bias: on a GPU each case is compiled, which takes long with it."""
    case = make_case([(70, 3), (100, 33)], width=width, page=page, heads=1, with_bias=False)
    case.check(run(case))
    layout = [(70, 3), (100, 90)]
    half = make_case(
        layout, width=width, page=page, heads=1, dtype=torch.float16, with_bias=width == 50
    )
    half.check(run(half))


@pytest.mark.skipif(not ON_GPU, reason="the interpreter is too slow for these sizes")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("candidates", [False, True])
def test_at_size(dtype: torch.dtype, candidates: bool) -> None:
    layout = [(2000, 300), (8192, 16), (4096, 256), (65, 1)]
    case = make_case(layout, dtype=dtype, page=64, heads=4, width=128, candidates=candidates)
    case.check(run(case))


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("splits", [1, 2, 5])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block_keys", [16, 32])
def test_every_way_to_cut_the_work(splits: int, packed: bool, block_keys: int) -> None:
    case = make_case(LAYOUTS["odd lengths"], page=32)
    most = 20
    plan = PagedPlan(
        block_rows=16,
        block_keys=block_keys,
        num_warps=4,
        num_stages=2,
        num_tiles=46 // 16 + 6 if packed else 6 * 2,
        packed=packed,
        tiles_per_request=-(-most // 16),
        num_splits=splits,
        max_keys=100,  # fewer than there are: another way to find the bias
        tma=ON_GPU and torch.cuda.get_device_capability() >= (9, 0),
    )
    out = kernels.paged_hstu_attention(**case.rows, **case.options, plan=plan)
    case.check(out)
    again = kernels.paged_hstu_attention(**case.rows, **case.options, plan=plan)
    assert torch.equal(out, again)


def test_bounds_change_only_how_the_sum_is_cut() -> None:
    case = make_case(LAYOUTS["odd lengths"])
    case.check(run(case, max_new_rows=20, max_keys=129))


@pytest.mark.parametrize(
    "strides",
    [
        lambda pages: pages.transpose(1, 2).contiguous().transpose(1, 2),
        lambda pages: pages.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3),
        lambda pages: torch.cat([pages, pages.new_full(pages.shape, torch.nan)], 0)[: len(pages)],
        lambda pages: torch.cat([pages, pages], 3)[..., : pages.shape[3]],
    ],
    ids=["heads beside each other", "heads outermost", "larger cache", "wider rows"],
)
def test_page_layouts(strides) -> None:
    case = make_case([(70, 3), (33, 20)], dtype=torch.float16, page=64)
    pages = strides(case.kv_pages)
    halves = torch.stack([case.timestamp_pages, case.timestamp_pages], -1)
    case = replace(case, kv_pages=pages, timestamp_pages=halves[..., 0])
    case.check(run(case))


def test_indices_of_either_width() -> None:
    case = make_case([(33, 3), (40, 5)])
    other = replace(
        case, page_table=case.page_table.long(), row_offsets=case.row_offsets.to(torch.int32)
    )
    assert torch.equal(run(case), run(other))


@pytest.mark.parametrize("num_buckets", [1, 64, 75])
@pytest.mark.parametrize("span", [10, 10**8, 10**11])
def test_buckets_are_exact_however_far_apart(num_buckets: int, span: int) -> None:
    case = make_case([(60, 3), (60, 3), (60, 20)], num_buckets=num_buckets, span=span)
    case.check(run(case))


def test_every_boundary_of_the_buckets() -> None:
    case = make_case([(128, 2)], page=128, heads=1)
    bounds = time_bucket_boundaries(64)[:64].to(DEVICE)
    keys = torch.cat([10**9 - bounds, 10**9 - bounds + 1])
    case.timestamp_pages[case.page_table[0, 0].long()] = keys
    for rows in ([10**9, 10**9], [10**9, 10**9 - 1]):  # alike: one bias for all rows
        now = torch.tensor(rows, device=DEVICE)
        limits = torch.full_like(case.key_limits, 128)
        changed = replace(case, timestamps=now, key_limits=limits)
        changed.check(run(changed))


@given(
    layout=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), min_size=1, max_size=4),
    page=st.just(32) if ON_GPU else st.sampled_from([16, 32, 48]),
    width=st.just(20) if ON_GPU else st.sampled_from([8, 20, 32]),
    heads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(
    max_examples=60 if ON_GPU else 8,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)
def test_any_shape(
    layout: list[tuple[int, int]], page: int, width: int, heads: int, seed: int
) -> None:
    case = make_case(layout, page=page, width=width, heads=heads, seed=seed)
    case.check(run(case))


def test_op_is_registered_well() -> None:
    case = make_case([(5, 2)], with_bias=True)
    assert case.bias is not None
    arguments = (
        *case.rows.values(), case.kv_pages, case.timestamp_pages, case.page_table,
        case.row_offsets, case.key_limits, case.timestamps, *case.bias, 0.3, 64, 2, 16,
        False, "triton",
    )  # fmt: skip
    torch.library.opcheck(torch.ops.genrec.paged_hstu_attention.default, arguments)


@pytest.mark.skipif(not ON_GPU, reason="CUDA graphs need an NVIDIA GPU")
def test_replays_of_a_graph_follow_the_lengths() -> None:
    case = make_case([(600, 16), (500, 16)], dtype=torch.bfloat16, page=64, candidates=True)
    run(case)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(case)
    for lengths in ((600, 500), (1, 64), (0, 333)):
        limits = torch.tensor(lengths, device=DEVICE).repeat_interleave(16)
        case.key_limits.copy_(limits)
        graph.replay()
        case.check(out)


@pytest.mark.skipif(ON_GPU, reason="about machines without a GPU")
def test_forced_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec_kernels.dispatch.interpreting", lambda: False)
    with pytest.raises(BackendUnavailable, match="NVIDIA GPU"):
        run(make_case([(3, 1)]))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("heads", "width"), [(2, 16), (3, 24)])
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_page_write(dtype: torch.dtype, heads: int, width: int, rows: int) -> None:
    g = torch.Generator().manual_seed(0)
    kvu = torch.randn(rows, 3, heads, width, generator=g).to(DEVICE, dtype)
    k, v, _ = kvu.unbind(1)
    slots = torch.randperm(5 * 16, generator=g)[:rows].to(DEVICE)
    slots[3::7] = -1
    times = torch.randint(0, 2**40, (rows,), generator=g).to(DEVICE)
    kv = torch.full((5, heads, 16, 2 * width), torch.nan, device=DEVICE, dtype=dtype)
    kv_pages = kv.transpose(1, 2).contiguous().transpose(1, 2)
    time_pages = torch.full((5, 16, 2), -1, device=DEVICE)[..., 0]
    expected, expected_times = kv_pages.clone(), time_pages.clone()
    page_write_reference(
        k, v, slots, kv_pages=expected, timestamps=times, timestamp_pages=expected_times
    )
    page_write(
        k, v, slots,
        kv_pages=kv_pages, timestamps=times, timestamp_pages=time_pages, backend="triton",
    )  # fmt: skip
    torch.testing.assert_close(kv_pages, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(time_pages, expected_times)


def test_page_write_without_times_and_into_another_dtype() -> None:
    k, v = torch.randn(2, 3, 2, 16, device=DEVICE).unbind()
    pages = torch.zeros(2, 2, 16, 32, device=DEVICE, dtype=torch.float16)
    expected = pages.clone()
    slots = torch.tensor([17, 0, 31], device=DEVICE)
    page_write_reference(k, v, slots, kv_pages=expected)
    page_write(k, v, slots, kv_pages=pages, backend="triton")
    assert torch.equal(pages, expected)


# Triton's interpreter loses a power of two where rounding to float8 reaches the next one, and NaN.
@pytest.mark.parametrize("rounded", [False] + [True] * ON_GPU)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_page_write_of_eight_bits(dtype: torch.dtype, rounded: bool) -> None:
    g = torch.Generator().manual_seed(0)
    numbers = torch.randn(2, 40, 3, 24, generator=g) * 100
    scales = torch.tensor([[0.7, 1.3, 0.01], [2.0, 0.5, 0.31]], device=DEVICE)
    if rounded:
        numbers[:, 5, 1, :4] = torch.tensor([1e4, -1e4, torch.nan, 0.0])
    else:
        numbers = numbers.to(FP8).float()
        scales = torch.tensor([[1.0, 2.0, 0.25], [4.0, 0.5, 1.0]], device=DEVICE)
    k, v = numbers.to(DEVICE, dtype).unbind()
    slots = torch.randperm(5 * 16, generator=g)[:40].to(DEVICE)
    slots[3::7] = -1
    pages = torch.full((5, 3, 16, 48), torch.nan, device=DEVICE).to(FP8)
    expected = pages.clone()
    page_write_reference(k, v, slots, kv_pages=expected, kv_scales=scales)
    page_write(k, v, slots, kv_pages=pages, kv_scales=scales, backend="triton")
    torch.testing.assert_close(pages.float(), expected.float(), rtol=0, atol=0, equal_nan=True)
    assert int(expected.float().isfinite().sum()) > 30 * 3 * 48


# The bias as a matrix, which the CUTLASS kernels read


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("same_bias", "rows"), [(True, 1), (False, 1), (False, 4), (False, 8)])
@pytest.mark.parametrize("layout", list(LAYOUTS.values())[1:], ids=list(LAYOUTS)[1:])
def test_bias_matrix(
    layout: list[tuple[int, int]], same_bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_paged_bias, "_rows_of_program", lambda _: rows)
    case = make_case(layout, candidates=same_bias)
    assert case.bias is not None
    options = {
        name: getattr(case, name)
        for name in ("timestamp_pages", "page_table", "row_offsets", "key_limits", "timestamps")
    } | {"max_keys": max(cached for cached, _ in layout), "same_bias": same_bias, "scale": 3.0}
    expected = reference.paged_bias(case.bias, **options)
    made = paged_bias(case.bias, **options)
    seen = expected.rows.isfinite()
    torch.testing.assert_close(made.rows[seen], expected.rows[seen])
    torch.testing.assert_close(made.own, expected.own)


def test_rows_that_differ_have_no_bias_in_common() -> None:
    case = make_case([(40, 3), (40, 140)], candidates=True)
    assert case.bias is not None
    case.timestamps[-1] += 1
    made = paged_bias(
        case.bias,
        timestamp_pages=case.timestamp_pages,
        page_table=case.page_table,
        row_offsets=case.row_offsets,
        key_limits=case.key_limits,
        timestamps=case.timestamps,
        max_keys=40,
        same_bias=True,
        scale=1.0,
    )
    assert made.rows[0, :40].isfinite().all()
    assert made.rows[1, :40].isnan().all()


# The CUTLASS kernels

CUTLASS_PROBLEM = "it needs an NVIDIA GPU"
if ON_GPU:
    CUTLASS_PROBLEM = str(backend_problem("cutlass", torch.device("cuda", 0)) or "")
needs_cutlass = pytest.mark.skipif(CUTLASS_PROBLEM != "", reason=CUTLASS_PROBLEM)


def run_compiled(case: Case, **options: object) -> Tensor:
    return paged_hstu_attention(**case.rows, **case.options, backend="cutlass", **options)


@needs_cutlass
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize("width", [64, 128, 256])
@pytest.mark.parametrize("page", [16, 48, 64])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_compiled_equals_the_twin(
    layout: list[tuple[int, int]], page: int, width: int, bias: str
) -> None:
    case = make_case(
        layout, dtype=torch.bfloat16, page=page, width=width, with_bias=bias != "none",
        candidates=bias == "same",
    )  # fmt: skip
    most = max(new for _, new in layout), max(cached for cached, _ in layout)
    for max_new_rows, max_keys in (most, (None, None)):
        case.check(
            run_compiled(
                case, same_bias=bias == "same", max_new_rows=max_new_rows, max_keys=max_keys
            )
        )


@needs_cutlass
@pytest.mark.parametrize("page", [32, 80, 192])
def test_compiled_half_precision_and_large_pages(page: int) -> None:
    case = make_case([(700, 90), (129, 3)], dtype=torch.float16, page=page, width=64)
    case.check(run_compiled(case))


@needs_cutlass
@pytest.mark.parametrize("page", [16, 64])
def test_compiled_on_layouts_of_pages(page: int) -> None:
    """Heads beside rows, as some versions of vLLM lay pages out."""
    case = make_case([(700, 90), (129, 3)], dtype=torch.bfloat16, page=page, width=128)
    beside = case.kv_pages.transpose(1, 2).contiguous().transpose(1, 2)
    case.check(run_compiled(replace(case, kv_pages=beside)))


@needs_cutlass
@pytest.mark.parametrize("page", [16, 64])
def test_compiled_follows_the_lengths_in_a_graph(page: int) -> None:
    case = make_case(
        [(600, 100), (500, 80)], dtype=torch.bfloat16, page=page, width=64, candidates=True
    )
    options = {"same_bias": True, "max_new_rows": 100, "max_keys": 640}
    run_compiled(case, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run_compiled(case, **options)
    for shorter in (0, 37, 300):
        case.key_limits.sub_(shorter).clamp_(min=0)
        graph.replay()
        case.check(out)


@needs_cutlass
def test_compiled_refuses_with_a_reason() -> None:
    case = make_case([(20, 3)], dtype=torch.bfloat16, page=24, width=64)
    with pytest.raises(BackendUnavailable, match="pages of a multiple of 16 rows"):
        run_compiled(case)
