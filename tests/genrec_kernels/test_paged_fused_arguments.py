"""Public ops of the paged path: what they refuse, and what they do where no kernel runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels import paged_hstu_attention as attention_module
from genrec_kernels import reference
from genrec_kernels.dispatch import BackendUnavailable
from genrec_kernels.fp8_pages import FP8
from genrec_kernels.fused_linear import linear_add, linear_silu
from genrec_kernels.fused_norm_gate import layer_norm, norm_gate, norm_gate_of_parts
from genrec_kernels.page_write import page_write
from genrec_kernels.paged_hstu_attention import paged_hstu_attention, takes_queries
from genrec_kernels.top_k import top_k


def arguments(**changes: object) -> dict[str, object]:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 4, 2, 8, generator=g, dtype=torch.float64)
    return {
        "q": q,
        "k": k,
        "v": v,
        "kv_pages": torch.randn(3, 2, 16, 16, generator=g, dtype=torch.float64),
        "timestamp_pages": torch.zeros(3, 16, dtype=torch.int64),
        "page_table": torch.tensor([[2, 0], [1, 9]]),
        "row_offsets": torch.tensor([0, 3, 4]),
        "key_limits": torch.tensor([17, 30, 2, 16]),
        "timestamps": torch.zeros(4, dtype=torch.int64),
        "alpha": 0.5,
        "norm_length": 32,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": torch.zeros(4, 2, 9)}, "alike"),
        ({"kv_pages": torch.zeros(3, 4, 16, 16)}, r"\[P, 2, S, 2·D\]"),
        ({"kv_pages": torch.zeros(3, 2, 16, 8)}, "rows of 2·8"),
        ({"timestamp_pages": torch.zeros(3, 8)}, r"\[3, 16\]"),
        ({"row_offsets": torch.zeros(2)}, r"\[B \+ 1\]"),
        ({"key_limits": torch.zeros(5)}, r"must be \[4\]"),
        ({"timestamps": torch.zeros(4)}, "int64"),
    ],
)
def test_attention_refuses(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paged_hstu_attention(**arguments(**changes))


def narrow_arguments(**changes: object) -> dict[str, object]:
    """In bfloat16, over pages of eight bits and 64 rows."""
    q, k, v = (torch.randn(4, 2, 64).bfloat16() for _ in range(3))
    return arguments(
        q=q, k=k, v=v, kv_pages=torch.zeros(3, 2, 64, 128).to(FP8),
        timestamp_pages=torch.zeros(3, 64, dtype=torch.int64), kv_scales=torch.ones(2, 2),
        qk_scale=1.0,
    ) | changes  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"queries": torch.zeros(4, 2, 8).to(FP8)}, r"float8_e4m3fn \[4, 2, 64\], contiguous"),
        ({"queries": torch.zeros(4, 2, 64).bfloat16()}, "not torch.bfloat16"),
        ({"queries": torch.zeros(2, 4, 64).to(FP8).transpose(0, 1)}, "strides"),
        ({"queries": torch.zeros(4, 2, 64).to(FP8), "qk_scale": None}, "come with kv_scales and"),
    ],
)
def test_attention_refuses_queries(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paged_hstu_attention(**narrow_arguments(**changes))


def test_attention_without_a_gpu_goes_by_q() -> None:
    given = narrow_arguments()
    out = paged_hstu_attention(**given, queries=torch.zeros(4, 2, 64).to(FP8))
    assert torch.equal(out, paged_hstu_attention(**given))


def test_which_attention_takes_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    given = narrow_arguments()
    names = ("q", "kv_pages", "page_table", "row_offsets", "qk_scale")
    call = {name: given[name] for name in names} | {"has_bias": False}
    assert not takes_queries(**call)
    assert not takes_queries(**call, backend="reference")
    with pytest.raises(BackendUnavailable):
        takes_queries(**call, backend="cutlass")
    monkeypatch.setattr(attention_module, "choose_backend", lambda *_, **__: "cutlass")
    assert takes_queries(**call)
    for change in (
        {"qk_scale": None},
        {"kv_pages": torch.zeros(3, 2, 64, 128).bfloat16()},
        {"q": torch.zeros(0, 2, 64).bfloat16()},
        {"row_offsets": torch.tensor([0])},
    ):
        assert not takes_queries(**(call | change))
    monkeypatch.setattr(attention_module, "choose_backend", lambda *_, **__: "triton")
    assert not takes_queries(**call)


def test_attention_without_a_gpu_is_the_reference() -> None:
    out = paged_hstu_attention(**arguments(), max_new_rows=3, max_keys=30)
    assert torch.equal(out, reference.paged_hstu_attention(**arguments()))


def test_page_write_refuses() -> None:
    k, slots, pages = torch.zeros(3, 2, 8), torch.arange(3), torch.zeros(1, 2, 16, 16)
    with pytest.raises(ValueError, match=r"slots \[R\]"):
        page_write(k, k, slots[:2], kv_pages=pages)
    with pytest.raises(ValueError, match=r"kv_pages must be \[P, 2, S, 16\]"):
        page_write(k, k, slots, kv_pages=pages[..., :8])
    with pytest.raises(ValueError, match="come together"):
        page_write(k, k, slots, kv_pages=pages, timestamps=slots)
    with pytest.raises(ValueError, match="q comes with pages of"):
        page_write(k, k, slots, kv_pages=pages, q=k, qk_scale=1.0)
    narrow = {"kv_pages": pages.to(FP8), "kv_scales": torch.ones(2, 2)}
    with pytest.raises(ValueError, match="q and qk_scale come together"):
        page_write(k, k, slots, **narrow, q=k)
    with pytest.raises(ValueError, match=r"must be \[3, 2, 8\] as k is"):
        page_write(k, k, slots, **narrow, q=k[:2], qk_scale=1.0)


def test_page_write_without_a_gpu() -> None:
    k, v = torch.randn(2, 3, 2, 8).unbind()
    pages, times = torch.zeros(2, 2, 16, 16), torch.zeros(2, 16, dtype=torch.int64)
    slots, now = torch.tensor([17, -1, 3]), torch.tensor([5, 6, 7])
    page_write(k, v, slots, kv_pages=pages, timestamps=now, timestamp_pages=times)
    assert torch.equal(pages[1, :, 1], torch.cat([k[0], v[0]], -1))
    assert torch.equal(pages[0, :, 3], torch.cat([k[2], v[2]], -1))
    assert int(pages.count_nonzero()) == 2 * 2 * 16
    assert times.nonzero().tolist() == [[0, 3], [1, 1]]


def test_page_write_rounds_queries_without_a_gpu() -> None:
    q, k, v = torch.randn(3, 3, 2, 8).unbind()
    pages, scales = torch.zeros(2, 2, 16, 16).to(FP8), torch.tensor([[2.0, 4.0], [1.0, 1.0]])

    def write(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        slots = torch.tensor([17, -1, 3])
        return page_write(k, v, slots, kv_pages=pages, kv_scales=scales, q=q, qk_scale=2.0)

    for run in (write, torch.compile(write, backend="aot_eager", fullgraph=True)):
        found = run(q, k, v)
        assert found.dtype == FP8
        assert torch.equal(found.float(), (q * torch.tensor([1.0, 2.0])[:, None]).to(FP8).float())


def test_norm_gate() -> None:
    x, u = torch.randn(2, 3, 4, 8, dtype=torch.float64, requires_grad=True).unbind()
    weight, bias = torch.randn(2, 8, dtype=torch.float64, requires_grad=True).unbind()
    expected = F.layer_norm(x, (8,), weight, bias, 1e-6) * u
    torch.testing.assert_close(norm_gate(x, u, weight, bias), expected)
    leaves = [t.detach().requires_grad_() for t in (x, u, weight, bias)]
    assert torch.autograd.gradcheck(norm_gate, leaves)
    compiled = torch.compile(norm_gate, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*leaves), expected)
    with pytest.raises(ValueError, match=r"\[\.\.\., W\]"):
        norm_gate(x, u, weight[:4], bias)


def test_norm_gate_of_parts() -> None:
    parts, u, weight, bias = (torch.randn(s) for s in ((3, 4, 8), (4, 8), 8, 8))
    expected = F.layer_norm(parts.sum(0), (8,), weight, bias, 1e-6) * u
    torch.testing.assert_close(norm_gate_of_parts(parts, u, weight, bias), expected)
    one = norm_gate_of_parts(parts[:1], u, weight, bias)
    assert torch.equal(one, norm_gate(parts[0], u, weight, bias))
    compiled = torch.compile(norm_gate_of_parts, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(parts, u, weight, bias), expected)
    for wrong in (parts[:0], parts[0], parts[:, :2]):
        with pytest.raises(ValueError, match=r"parts must be \[P, R, W\]"):
            norm_gate_of_parts(wrong, u, weight, bias)


def test_layer_norm() -> None:
    x, weight, bias = torch.randn(2, 3, 8), torch.randn(8), torch.randn(8)
    expected = F.layer_norm(x, (8,), weight, bias, 1e-6)
    assert torch.equal(layer_norm(x, weight, bias), expected)
    compiled = torch.compile(layer_norm, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, weight, bias), expected)
    with pytest.raises(ValueError, match=r"weight and bias \[W\]"):
        layer_norm(x, weight[:4], bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": torch.zeros(16, 9)}, r"weight \[N, K\]"),
        ({"bias": torch.zeros(15)}, r"bias \[N\]"),
        ({"bias": torch.zeros(16, dtype=torch.float64)}, "differ in dtype"),
        ({"residual": torch.zeros(3, 15)}, r"\[3, 16\]"),
        ({"residual": torch.zeros(3, 16).half()}, "torch.float16"),
    ],
)
def test_linear_add_refuses(changes: dict[str, Tensor], message: str) -> None:
    given = {
        "x": torch.zeros(3, 8),
        "weight": torch.zeros(16, 8),
        "bias": torch.zeros(16),
        "residual": torch.zeros(3, 16),
    }
    with pytest.raises(ValueError, match=message):
        linear_add(**(given | changes))


def test_linear_without_a_gpu_is_the_reference() -> None:
    x, weight, bias = torch.randn(3, 8), torch.randn(16, 8), torch.randn(16)
    residual = torch.randn(3, 16)
    product = F.linear(x, weight, bias)
    for fused, inputs, expected in (
        (linear_silu, (x, weight, bias), F.silu(product)),
        (linear_add, (x, weight, bias, residual), residual + product),
    ):
        assert torch.equal(fused(*inputs), expected)
        compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(*inputs), expected)


def test_top_k_refuses() -> None:
    users, items = torch.zeros(2, 8), torch.zeros(9, 8)
    with pytest.raises(ValueError, match=r"\[B, W\]"):
        top_k(users, items[:, :4], 3)
    with pytest.raises(ValueError, match="one dtype"):
        top_k(users, items.double(), 3)
    for k in (0, 1025):
        with pytest.raises(ValueError, match="1 to 1024"):
            top_k(users, items, k)
    with pytest.raises(ValueError, match=r"exclude must be \[2, E\]"):
        top_k(users, items, 3, exclude=torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"bool \[9\]"):
        top_k(users, items, 3, allow=torch.zeros(9))


def test_top_k_without_a_gpu() -> None:
    users, items = torch.eye(2, 4), torch.tensor([[1.0, 0, 0, 0], [3, 1, 0, 0], [2, 2, 0, 0]])
    found = top_k(users, items, 5, exclude=torch.tensor([[1], [-1]]))
    assert found.items.tolist() == [[2, 0, -1], [2, 1, 0]]
    assert found.scores.tolist() == [[2.0, 1.0, -torch.inf], [2.0, 1.0, 0.0]]
