"""Linear layers of eight bits, and the norms before them, against their plain twins: Triton's, and
on a Hopper GPU CUTLASS' linear layers.

Not collected by itself, see `test_triton_kernels.py`. Triton's interpreter loses a power of two
where rounding to float8 reaches the next one, so that the norms come less near there.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genrec_kernels.dispatch import BackendUnavailable, backend_problem
from genrec_kernels.fp8_linear import (
    layer_norm_fp8,
    linear_add_fp8,
    linear_silu_fp8,
    norm_gate_fp8,
)
from genrec_kernels.narrow_rows import NarrowRows, narrow_rows

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
PROBLEM = backend_problem("cutlass", torch.device("cuda", 0)) if ON_GPU else "it needs a GPU"
on_hopper = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))
#: Of rounding to three bits of fraction; of the norms through the interpreter.
ROUNDED, NORMED = 0.04, 0.04 if ON_GPU else 0.15
#: Of a product whose operands are the same.
PRODUCT = {torch.bfloat16: 4e-3 if ON_GPU else 1e-2, torch.float16: 1e-3}


def relative(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm().clamp(min=1e-30))


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs start as NaN, so that a number nobody writes shows."""
    empty = torch.empty

    def poisoned(*args: object, **options: object) -> Tensor:
        out = empty(*args, **options)
        if out.dtype == torch.float8_e4m3fn:
            out.view(torch.uint8).fill_(0x7F)
            return out
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


def check(rows: NarrowRows, expected: Tensor) -> None:
    assert rows.numbers.dtype == torch.float8_e4m3fn
    assert rows.scales.dtype == torch.float32
    assert rows.numbers.shape == expected.shape
    assert rows.scales.shape == expected.shape[:1]
    if expected.numel():
        assert relative(rows.wide(), expected) <= NORMED
        greatest = expected.abs().amax(1)
        torch.testing.assert_close(
            rows.scales.double() * 448, greatest, rtol=1e-2, atol=1e-6, check_dtype=False
        )


SHAPES = [(0, 16), (1, 16), (37, 48), (5, 1024)] + [(3072, 1024)] * ON_GPU


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layer_norm(shape: tuple[int, int], dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    rows, width = shape
    x = torch.randn(rows, 2 * width, generator=g).to(DEVICE, dtype)[:, :width]
    weight, bias = torch.randn(2, width, generator=g).to(DEVICE, dtype).unbind()
    expected = F.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-6)
    check(layer_norm_fp8(x, weight, bias, backend="triton"), expected)
    plain = layer_norm_fp8(x, weight, bias, backend="reference")
    assert not rows or relative(plain.wide(), expected) <= ROUNDED


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_gate(shape: tuple[int, int], parts: int) -> None:
    g = torch.Generator().manual_seed(0)
    rows, width = shape
    dtype = torch.bfloat16
    x = torch.randn(parts, rows, width, generator=g).to(DEVICE, dtype if parts == 1 else None)
    u = torch.randn(rows, 3 * width, generator=g).to(DEVICE, dtype)[:, width : 2 * width]
    weight, bias = torch.randn(2, width, generator=g).to(DEVICE, dtype).unbind()
    normal = F.layer_norm(x.double().sum(0), (width,), weight.double(), bias.double(), 1e-6)
    check(norm_gate_fp8(x, u, weight, bias, backend="triton"), normal * u.double())
    plain = norm_gate_fp8(x, u, weight, bias, backend="reference")
    assert not rows or relative(plain.wide(), normal * u.double()) <= ROUNDED


def test_a_row_of_zeros() -> None:
    zeros = torch.zeros(2, 16, device=DEVICE)
    for backend in ("triton", "reference"):
        rows = layer_norm_fp8(zeros, zeros[0], zeros[0], backend=backend)
        assert torch.equal(rows.wide(), zeros)
        assert bool((rows.scales > 0).all())


@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", PRODUCT, ids=str)
@pytest.mark.parametrize(
    ("rows", "width", "columns"),
    [(1, 16, 16), (33, 48, 80), (17, 64, 144)]
    + [(1, 1024, 4096), (384, 1024, 4096), (3072, 1024, 1024), (40_000, 1024, 4096)] * ON_GPU,
)
@pytest.mark.parametrize("adds", [False, True], ids=["silu", "add"])
@pytest.mark.parametrize(
    "backend", ["reference", "triton", pytest.param("cutlass", marks=on_hopper)]
)
def test_linear(
    rows: int, width: int, columns: int, dtype: torch.dtype, adds: bool, backend: str
) -> None:
    if backend == "cutlass" and dtype != torch.bfloat16:
        pytest.skip("its kernels round to bfloat16 alone")
    g = torch.Generator().manual_seed(0)
    x = narrow_rows(torch.randn(rows, width, generator=g).to(DEVICE))
    spread = torch.rand(columns, 1, generator=g) + 0.1
    weight = narrow_rows((spread * torch.randn(columns, width, generator=g)).to(DEVICE))
    bias = torch.randn(columns, generator=g).to(DEVICE, dtype)
    residual = torch.randn(rows, columns, generator=g).to(DEVICE, dtype)
    product = F.linear(x.wide().double(), weight.wide().double(), bias.double())
    expected = product + residual.double() if adds else F.silu(product)
    if adds:
        out = linear_add_fp8(x, weight, bias, residual, backend=backend)
    else:
        out = linear_silu_fp8(x, weight, bias, backend=backend)
    assert out.dtype == dtype
    assert relative(out, expected) <= PRODUCT[dtype]


def test_wrong_shapes_are_refused() -> None:
    x, weight = (narrow_rows(torch.ones(3, n, device=DEVICE)) for n in (16, 32))
    bias = torch.ones(3, dtype=torch.float16, device=DEVICE)
    with pytest.raises(ValueError, match=r"x must be \[R, K\]"):
        linear_silu_fp8(x, weight, bias)
    with pytest.raises(ValueError, match="residual must be"):
        linear_add_fp8(x, x, bias, bias)


@on_hopper
def test_cutlass_refuses_what_it_cannot_take() -> None:
    x = narrow_rows(torch.ones(3, 16, device=DEVICE))
    weight = narrow_rows(torch.ones(16, 16, device=DEVICE))
    bias = torch.ones(16, dtype=torch.float16, device=DEVICE)
    with pytest.raises(BackendUnavailable, match="eight bits with the rest in bfloat16"):
        linear_silu_fp8(x, weight, bias, backend="cutlass")


def test_no_rows() -> None:
    nothing = narrow_rows(torch.ones(1, 16, device=DEVICE))
    nothing = NarrowRows(nothing.numbers[:0], nothing.scales[:0])
    weight = narrow_rows(torch.ones(32, 16, device=DEVICE))
    bias = torch.ones(32, dtype=torch.float16, device=DEVICE)
    assert linear_silu_fp8(nothing, weight, bias).shape == (0, 32)
