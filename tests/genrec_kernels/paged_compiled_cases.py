"""The CUTLASS kernels of paged attention against their plain twin.

Not collected by itself, see `test_triton_kernels.py`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genrec_kernels.dispatch import BackendUnavailable, backend_problem
from genrec_kernels.fp8_pages import qk_scale_for
from genrec_kernels.page_write import page_write
from genrec_kernels.paged_hstu_attention import paged_hstu_attention

from .paged_inputs import (
    LAYOUTS,
    ON_GPU,
    Case,
    make_case,
    narrowed,
    poison,  # noqa: F401  # a fixture
)

CUTLASS_PROBLEM = "it needs an NVIDIA GPU"
if ON_GPU:
    CUTLASS_PROBLEM = str(backend_problem("cutlass", torch.device("cuda", 0)) or "")
#: Of weights that round the other way, as scores, and a GPU's tanh, are no better than 2^-11: one
#: that does is off by a sixteenth, and some cases have few.
EIGHT_BITS = 4e-2
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
@pytest.mark.usefixtures("poison")
def test_compiled_parts_add_up() -> None:
    case = make_case([(3000, 90), (0, 1), (513, 20)], dtype=torch.bfloat16, page=64, width=128)
    parts = run_compiled(case, in_parts=True)
    assert len(parts) > 1
    assert parts.dtype == torch.float32
    case.check(parts.sum(0).bfloat16())


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


def in_eight_bits(case: Case) -> Case:
    """Of which products are, too."""
    narrow = narrowed(case)
    assert narrow.kv_scales is not None
    heads, width = case.q.shape[1:]
    queries = torch.full((heads,), 4.0, device=case.q.device)
    qk_scale = qk_scale_for(queries, narrow.kv_scales, width, alpha=case.alpha, bias=case.bias)
    return replace(narrow, qk_scale=qk_scale)


@needs_cutlass
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("bias", ["none", "own", "same"])
@pytest.mark.parametrize(("page", "width"), [(64, 64), (128, 128), (64, 256)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_compiled_on_pages_of_eight_bits(
    layout: list[tuple[int, int]], page: int, width: int, bias: str
) -> None:
    case = in_eight_bits(
        make_case(
            layout, dtype=torch.bfloat16, page=page, width=width, with_bias=bias != "none",
            candidates=bias == "same",
        )
    )  # fmt: skip
    most = max(cached for cached, _ in layout)
    for max_keys in (most, None):
        out = run_compiled(
            case, same_bias=bias == "same", max_keys=max_keys, qk_scale=case.qk_scale
        )
        case.check(out, EIGHT_BITS)


@needs_cutlass
@pytest.mark.usefixtures("poison")
def test_compiled_reads_queries_that_a_page_write_rounded() -> None:
    case = in_eight_bits(
        make_case([(600, 100), (64, 80)], dtype=torch.bfloat16, page=64, width=128)
    )
    nowhere = torch.full((len(case.q),), -1, device=case.q.device)
    queries = page_write(
        case.k, case.v, nowhere,
        kv_pages=case.kv_pages, kv_scales=case.kv_scales, q=case.q, qk_scale=case.qk_scale,
    )  # fmt: skip
    assert queries is not None
    without = run_compiled(case, qk_scale=case.qk_scale)
    assert torch.equal(run_compiled(case, qk_scale=case.qk_scale, queries=queries), without)
    others = run_compiled(case, qk_scale=case.qk_scale, queries=queries.flip(0).contiguous())
    assert not torch.equal(others, without)


@needs_cutlass
def test_compiled_on_pages_of_eight_bits_follows_the_lengths_in_a_graph() -> None:
    case = in_eight_bits(
        make_case([(600, 100), (500, 80)], dtype=torch.bfloat16, page=64, width=64, candidates=True)
    )
    options = {
        "same_bias": True, "max_new_rows": 100, "max_keys": 640, "qk_scale": case.qk_scale,
    }  # fmt: skip
    run_compiled(case, **options)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run_compiled(case, **options)
    for limit in (0, 37, 500, 10):
        case.key_limits.fill_(limit)
        graph.replay()
        case.check(out, EIGHT_BITS)


@needs_cutlass
def test_compiled_refuses_with_a_reason() -> None:
    case = make_case([(20, 3)], dtype=torch.bfloat16, page=24, width=64)
    with pytest.raises(BackendUnavailable, match="pages of a multiple of 16 rows"):
        run_compiled(case)
    fitting = make_case([(20, 3)], dtype=torch.bfloat16, width=64)
    with pytest.raises(BackendUnavailable, match=r"take pages of torch\.bfloat16 .* or of float8"):
        run_compiled(replace(fitting, kv_pages=fitting.kv_pages.half()))
    with pytest.raises(BackendUnavailable, match="for which it wants a qk_scale"):
        run_compiled(narrowed(make_case([(20, 3)], dtype=torch.bfloat16, page=64, width=64)))
    with pytest.raises(BackendUnavailable, match="float8 pages of a multiple of 64 rows"):
        run_compiled(narrowed(fitting), qk_scale=1.0)
