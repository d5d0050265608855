"""Triton's neighbours of attention against their plain twins, and on a Hopper GPU CUTLASS' linear
layers.

Not collected by itself: `test_triton_kernels.py` runs it in a process of its own, on the GPU or,
without one, in Triton's interpreter, which must be chosen before Triton is first imported.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels import top_k as module
from genrec_kernels.dispatch import BackendUnavailable, backend_problem
from genrec_kernels.fused_linear import linear_add, linear_silu
from genrec_kernels.fused_norm_gate import layer_norm, norm_gate, norm_gate_of_parts
from genrec_kernels.top_k import top_k

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
PROBLEM = backend_problem("cutlass", torch.device("cuda", 0)) if ON_GPU else "it needs a GPU"
on_hopper = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
LINEAR_BACKENDS = ["triton", pytest.param("cutlass", marks=on_hopper)]
TOLERANCE = {torch.bfloat16: 4e-3 if ON_GPU else 1e-2, torch.float16: 5e-4, torch.float32: 1e-5}


def relative(out: Tensor, expected: Tensor) -> float:
    out, expected = out.detach().double(), expected.detach()
    return float((out - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "shape", [(0, 8), (1, 1), (7, 50), (3, 5, 64), (300, 40)] + [(70_000, 512)] * ON_GPU, ids=str
)
def test_norm_gate_and_its_gradient(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    width = shape[-1]
    wide_rows = torch.randn(*shape[:-1], 2 * width, generator=g) + 0.5
    x, u = wide_rows.to(DEVICE, dtype).chunk(2, dim=-1)  # rows of a wider matrix
    weight, bias = torch.randn(2, width, generator=g).to(DEVICE, dtype).unbind()
    grad = torch.randn(*shape, generator=g).to(DEVICE, dtype)
    inputs = [t.detach().requires_grad_() for t in (x, u, weight, bias)]
    out = norm_gate(*inputs, backend="triton")
    grads = torch.autograd.grad(out, inputs, grad)

    wide = [t.detach().double().requires_grad_() for t in (x, u, weight, bias)]
    expected = F.layer_norm(wide[0], (width,), wide[2], wide[3], 1e-6) * wide[1]
    expected_grads = torch.autograd.grad(expected, wide, grad.double())
    assert out.shape == shape
    assert out.dtype == dtype
    assert relative(out, expected) <= TOLERANCE[dtype]
    for got, want in zip(grads, expected_grads, strict=True):
        assert got.dtype == dtype
        if float(want.norm()) > 1e-9:  # the gradient by a row of one number is zero
            assert relative(got, want) <= 2 * TOLERANCE[dtype]


def test_norm_gate_is_registered_well() -> None:
    x, u, weight, bias = (torch.randn(s, requires_grad=True) for s in ((3, 8), (3, 8), 8, 8))
    for backend in ("triton", "reference"):
        arguments = [t.detach().to(DEVICE).requires_grad_() for t in (x, u, weight, bias)]
        torch.library.opcheck(torch.ops.genrec.norm_gate.default, (*arguments, 1e-6, backend))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("parts", "rows", "width"),
    [(1, 5, 50), (2, 0, 8), (2, 1, 1), (3, 7, 50), (5, 3, 64), (11, 4, 40)]
    + [(5, 384, 1024), (64, 33, 512), (7, 3, 2048)] * ON_GPU,
)
def test_norm_gate_of_parts(
    monkeypatch: pytest.MonkeyPatch, parts: int, rows: int, width: int, dtype: torch.dtype
) -> None:
    g = torch.Generator().manual_seed(0)
    of_parts = dtype if parts == 1 else torch.float32
    x = torch.randn(parts, rows, width, generator=g).to(DEVICE, of_parts)
    u = torch.randn(rows, 3 * width, generator=g).to(DEVICE, dtype)[:, width : 2 * width]
    weight, bias = torch.randn(2, width, generator=g).to(DEVICE, dtype).unbind()
    empty = torch.empty
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
        out = norm_gate_of_parts(x, u, weight, bias, backend="triton")
    assert out.dtype == dtype
    assert out.shape == u.shape
    wide = F.layer_norm(x.double().sum(0), (width,), weight.double(), bias.double(), 1e-6)
    for got in (out, norm_gate_of_parts(x, u, weight, bias, backend="reference")):
        assert not got.numel() or relative(got, wide * u.double()) <= TOLERANCE[dtype]


def test_norm_gate_of_parts_is_registered_well() -> None:
    op = torch.ops.genrec.norm_gate_of_parts.default
    for backend, dtype in (("triton", torch.float16), ("reference", torch.float32)):
        parts = torch.randn(3, 5, 8, device=DEVICE)
        u, weight, bias = (torch.randn(s).to(DEVICE, dtype) for s in ((5, 8), 8, 8))
        torch.library.opcheck(op, (parts, u, weight, bias, 1e-6, backend))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("rows", "width", "columns"),
    [(1, 8, 8), (33, 24, 40), (17, 64, 136)]
    + [(1, 1024, 4096), (131, 512, 2048), (5000, 512, 2048), (40_000, 1024, 4096)] * ON_GPU
    + [(40, 1024, 1024), (384, 1024, 1024), (1000, 1000, 1000)] * ON_GPU,
)
@pytest.mark.parametrize("adds", [False, True], ids=["silu", "add"])
@pytest.mark.parametrize("backend", LINEAR_BACKENDS)
def test_linear(
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    rows: int,
    width: int,
    columns: int,
    dtype: torch.dtype,
    adds: bool,
) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=g).to(DEVICE, dtype)
    weight = (torch.randn(columns, width, generator=g) / width**0.5).to(DEVICE, dtype)
    bias = torch.randn(columns, generator=g).to(DEVICE, dtype)
    residual = torch.randn(rows, columns, generator=g).to(DEVICE, dtype)
    empty = torch.empty

    def poisoned(*args, **kwargs):
        return empty(*args, **kwargs).fill_(torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        if adds:
            out = linear_add(x, weight, bias, residual, backend=backend)
        else:
            out = linear_silu(x, weight, bias, backend=backend)
    product = F.linear(x.double(), weight.double(), bias.double())
    expected = product + residual.double() if adds else F.silu(product)
    assert out.dtype == dtype
    assert relative(out, expected) <= TOLERANCE[dtype]


def test_linear_keeps_the_shape_before_the_last_axis() -> None:
    x, weight, bias = (torch.randn(shape) for shape in ((2, 3, 8), (16, 8), (16,)))
    residual = torch.randn(2, 3, 16)
    product = F.linear(x, weight, bias)
    assert torch.equal(linear_silu(x, weight, bias), F.silu(product))
    assert linear_silu(x[:0], weight, bias).shape == (0, 3, 16)
    assert torch.equal(linear_add(x, weight, bias, residual), residual + product)
    assert linear_add(x[:0], weight, bias, residual[:0]).shape == (0, 3, 16)


@pytest.mark.parametrize("backend", [*LINEAR_BACKENDS, "reference"])
def test_linear_is_registered_well(backend: str) -> None:
    ops = torch.ops.genrec
    for dtype in (torch.float16, torch.float32) if backend == "reference" else (torch.float16,):
        x, weight, bias = (torch.randn(shape).to(DEVICE, dtype) for shape in ((5, 8), (16, 8), 16))
        torch.library.opcheck(ops.linear_silu.default, (x, weight, bias, backend))
        residual = torch.randn(5, 16).to(DEVICE, dtype)
        torch.library.opcheck(ops.linear_add.default, (x, weight, bias, residual, backend))


@on_hopper
def test_cutlass_linear_in_a_graph() -> None:
    """Again and again, on inputs that change: nothing of a launch is left behind."""
    shape = (700, 1024)
    x = torch.zeros(shape, dtype=torch.bfloat16, device=DEVICE)
    weight, residual = (torch.randn(1024, 1024, device=DEVICE).bfloat16() for _ in range(2))
    bias, residual = weight[0].clone(), residual[: shape[0]].clone()
    linear_add(x, weight, bias, residual, backend="cutlass")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first = linear_silu(x, weight, bias, backend="cutlass")
        out = linear_add(first, weight, bias, residual, backend="cutlass")
    for seed in range(3):
        x.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / 32)
        graph.replay()
        hidden = F.silu(F.linear(x.double(), weight.double(), bias.double()))
        assert relative(first, hidden) <= TOLERANCE[torch.bfloat16]
        product = F.linear(first.double(), weight.double(), bias.double())
        assert relative(out, residual.double() + product) <= TOLERANCE[torch.bfloat16]


@on_hopper
def test_cutlass_linear_refuses_what_it_cannot_take() -> None:
    x, weight, bias = (torch.ones(s, device=DEVICE) for s in ((3, 8), (8, 8), 8))
    with pytest.raises(BackendUnavailable, match="cutlass"):
        linear_silu(x, weight, bias, backend="cutlass")
    odd = torch.ones(3 * 8 + 4, device=DEVICE, dtype=torch.float16)[4:].view(3, 8)
    with pytest.raises(BackendUnavailable, match="multiples of 16 bytes"):
        linear_silu(odd, weight.half(), bias.half(), backend="cutlass")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(1, 8), (37, 500), (5, 1024), (2, 0, 64), (2, 3, 64)], ids=str)
def test_layer_norm(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    g = torch.Generator().manual_seed(0)
    # Rows of a wider tensor: not contiguous.
    x = torch.randn(*shape[:-1], 3 * shape[-1], generator=g).to(DEVICE, dtype)[..., : shape[-1]]
    weight, bias = (torch.randn(shape[-1], generator=g).to(DEVICE, dtype) for _ in range(2))
    empty = torch.empty
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
        out = layer_norm(x, weight, bias, backend="triton")
    assert out.dtype == dtype
    assert out.shape == x.shape
    if out.numel():
        expected = F.layer_norm(x.double(), shape[-1:], weight.double(), bias.double(), 1e-6)
        assert relative(out, expected) <= TOLERANCE[dtype]


def test_layer_norm_is_registered_well() -> None:
    for backend, dtype in (("triton", torch.float16), ("reference", torch.float32)):
        x, weight, bias = (torch.randn(shape).to(DEVICE, dtype) for shape in ((5, 8), 8, 8))
        torch.library.opcheck(torch.ops.genrec.layer_norm.default, (x, weight, bias, 1e-6, backend))


def check_top_k(
    users: Tensor, items: Tensor, k: int, exclude: Tensor | None, allow: Tensor | None
) -> None:
    found = top_k(users, items, k, exclude=exclude, allow=allow, backend="triton")
    expected = top_k(users.double(), items.double(), k, exclude=exclude, allow=allow)
    torch.testing.assert_close(found.scores, expected.scores.float(), rtol=1e-5, atol=1e-5)
    # Scores that differ by rounding alone may change places.
    differ = (found.items != expected.items) & expected.scores.isfinite()
    assert float(differ.double().mean()) <= (1e-3 if ON_GPU else 0.0)
    assert torch.equal(found.items == -1, expected.items == -1)
    for row in found.items.tolist():
        kept = [item for item in row if item >= 0]
        assert len(set(kept)) == len(kept)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("allow", [False, True])
def test_top_k(dtype: torch.dtype, exclude: bool, allow: bool) -> None:
    g = torch.Generator().manual_seed(0)
    num_users, num_items = (70, 300_000) if ON_GPU else (5, 300)
    users = torch.randn(num_users, 24, generator=g).to(DEVICE, dtype)
    items = torch.randn(num_items, 24, generator=g).to(DEVICE, dtype)
    left_out = torch.randint(-1, num_items, (num_users, 40), generator=g).to(DEVICE)
    best = top_k(users.double(), items.double(), 20).items
    left_out[:, :20] = best  # the best of all, so that leaving them out matters
    allowed = (torch.rand(num_items, generator=g) > 0.4).to(DEVICE)
    check_top_k(users, items, 11, left_out if exclude else None, allowed if allow else None)


@pytest.mark.parametrize(
    ("num_users", "num_items", "k"), [(1, 1, 1), (1, 31, 31), (2, 33, 5), (17, 65, 64), (1, 40, 99)]
)
def test_top_k_of_small_catalogues(num_users: int, num_items: int, k: int) -> None:
    g = torch.Generator().manual_seed(0)
    users = torch.randn(num_users, 5, generator=g).to(DEVICE)
    items = torch.randn(num_items, 5, generator=g).to(DEVICE)
    check_top_k(users, items, k, None, None)


def test_equal_scores_come_in_the_order_of_the_items() -> None:
    users = torch.ones(2, 8, device=DEVICE)
    items = torch.zeros(200, 8, device=DEVICE)
    items[[150, 70, 199]] = 1.0
    items[30] = -0.0
    items[31] = -1.0
    for backend in ("triton", "reference"):
        found = top_k(users, items, 40, backend=backend)
        rest = [i for i in range(200) if i not in (31, 70, 150, 199)]
        assert found.items[0].tolist() == [70, 150, 199, *rest][:40]


def test_fewer_items_than_asked_for() -> None:
    users, items = torch.randn(2, 8, device=DEVICE), torch.randn(50, 8, device=DEVICE)
    allow = torch.zeros(50, dtype=torch.bool, device=DEVICE)
    allow[[3, 40]] = True
    exclude = torch.tensor([[3, -1], [3, 40]], device=DEVICE)
    found = top_k(users, items, 4, exclude=exclude, allow=allow, backend="triton")
    assert found.items.tolist() == [[40, -1, -1, -1], [-1, -1, -1, -1]]
    assert bool(found.scores[:, 1:].isneginf().all())


def test_all_scores_and_packed_keys_find_the_same() -> None:
    users, items = torch.randn(3, 8, device=DEVICE), torch.randn(70, 8, device=DEVICE)
    items[5] = items[60]
    exclude = torch.tensor([[5, -1], [9, 7], [0, 1]], device=DEVICE)
    found = module._by_all_scores(users, items, 9, exclude, None)
    expected = top_k(users, items, 9, exclude=exclude, backend="reference")
    assert torch.equal(found[0], expected.items)
    assert torch.equal(found[1], expected.scores)


def test_top_k_is_registered_well() -> None:
    users, items = torch.randn(2, 8, device=DEVICE), torch.randn(50, 8, device=DEVICE)
    torch.library.opcheck(torch.ops.genrec.top_k.default, (users, items, 3, None, None, "triton"))
