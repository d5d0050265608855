"""Triton's paged attention against its plain twin.

Not collected by itself, see `test_triton_kernels.py`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genrec_kernels.dispatch import BackendUnavailable
from genrec_kernels.fp8_pages import FP8
from genrec_kernels.paged_hstu_attention import paged_hstu_attention
from genrec_kernels.relative_bias import time_bucket_boundaries
from genrec_kernels.triton import paged_hstu_attention as kernels
from genrec_kernels.triton.paged_plan import PagedPlan

from .paged_inputs import (
    AT_SIZE,
    DEVICE,
    LAYOUTS,
    ON_GPU,
    TOLERANCE,
    make_case,
    narrowed,
    poison,  # noqa: F401  # a fixture
    run,
)


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
    parts = kernels.paged_hstu_attention(**case.rows, **case.options, plan=plan, in_parts=True)
    assert parts.shape == (splits, *out.shape)
    assert parts.dtype == torch.float32  # as the case is; several are so whatever it is
    case.check(parts.sum(0))


def test_parts_of_the_op_add_up() -> None:
    case = make_case([(700, 3)], dtype=torch.float16, with_bias=False)
    parts = run(case, in_parts=True)
    assert len(parts) > 1
    assert parts.dtype == torch.float32
    case.check(parts.sum(0).half())
    plain = paged_hstu_attention(**case.rows, **case.options, backend="reference", in_parts=True)
    assert plain.shape == (1, *case.q.shape)
    case.check(plain[0])


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
        case.row_offsets, case.key_limits, case.timestamps, *case.bias, None, None, None, 0.3, 64,
        2, 16, False, False, "triton",
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
