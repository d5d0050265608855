"""Triton's HSTU attention against its plain twins.

Not collected by itself: `test_triton_kernels.py` runs it in a process of its own, on the GPU or,
without one, in Triton's interpreter, which must be chosen before Triton is first imported.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from genrec_kernels.dispatch import BackendUnavailable
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

#: Largest error relative to the twin in float64, by the norm of the whole tensor.
#: The interpreter cuts bfloat16 off where a GPU rounds.
TOLERANCE = {torch.bfloat16: 3e-3 if ON_GPU else 1e-2, torch.float16: 5e-4, torch.float32: 1e-5}
GRADIENT_TOLERANCE = {
    torch.bfloat16: 8e-3 if ON_GPU else 2e-2,
    torch.float16: 1e-3,
    torch.float32: 1e-5,
}
#: A table's entry is a sum of up to millions of scores' gradients, in an order that varies.
TABLE_TOLERANCE = {**GRADIENT_TOLERANCE, torch.float32: 5e-5 if ON_GPU else 1e-5}

#: (history rows, candidates) of each sequence.
LAYOUTS = {
    "one token": [(1, 0)],
    "one candidate": [(0, 1)],
    "no history": [(0, 19), (0, 0), (0, 1)],
    "no candidates": [(37, 0), (16, 0)],
    "odd lengths": [(5, 0), (0, 0), (0, 2), (33, 9)],
    "around a tile": [(15, 1), (16, 16), (17, 1)],
    "long": [(70, 3), (1, 20)],
}
AT_SIZE = {
    "long on the GPU": [(1000, 32), (0, 300), (513, 0), (128, 1), (2111, 77)],
    "many short": [(7 * i % 200, i % 5) for i in range(150)],
}
if ON_GPU:
    LAYOUTS |= AT_SIZE


@dataclass(frozen=True)
class Case:
    rows: JaggedRows
    q: Tensor
    k: Tensor
    v: Tensor
    limits: Tensor
    times: Tensor
    bias: RelativeBias | None
    window: int | None = None

    @property
    def tensors(self) -> list[Tensor]:
        return [self.q, self.k, self.v, *(self.bias[:2] if self.bias else ())]

    def widened(self) -> Case:
        """The same in float64, on leaves that can have gradients."""
        q, k, v, *tables = (x.detach().double().requires_grad_() for x in self.tensors)
        bias = RelativeBias(tables[0], tables[1], self.bias.boundaries) if self.bias else None
        return replace(self, q=q, k=k, v=v, bias=bias)

    def run(self, backend: str) -> Tensor:
        return hstu_attention(
            self.q,
            self.k,
            self.v,
            rows=self.rows,
            key_limits=self.limits,
            timestamps=self.times,
            alpha=self.q.shape[2] ** -0.5,
            norm_length=64,
            bias=self.bias,
            window=self.window,
            backend=backend,
        )


def make_case(
    layout: list[tuple[int, int]],
    *,
    dtype: torch.dtype = torch.float32,
    heads: int = 2,
    widths: tuple[int, int] = (16, 16),
    with_bias: bool = True,
    window: int | None = None,
    limits: str = "serving",
    times: str = "sessions",
    buckets: int = 64 if ON_GPU else 12,
    seed: int = 0,
) -> Case:
    random = torch.Generator().manual_seed(seed)
    rows = JaggedRows(
        torch.tensor([h for h, _ in layout], device=DEVICE),
        torch.tensor([c for _, c in layout], device=DEVICE),
    )
    total = sum(h + c for h, c in layout)

    # One wide tensor, as a layer's projection gives: rows of q, k and v are strided.
    widest = max(widths)
    wide = torch.randn(total, 3, heads, widest, generator=random).to(DEVICE, dtype)
    q, k = (wide[:, i, :, : widths[0]].detach().requires_grad_() for i in (0, 1))
    v = wide[:, 2, :, : widths[1]].detach().requires_grad_()

    limit, time = [], []
    for h, c in layout:
        limit += list(range(h))
        if limits == "serving":
            limit += [h] * c
        else:  # candidates of training, and history that sees less than it could
            limit += torch.randint(0, h + 1, (c,), generator=random).sort().values.tolist()
        gaps = torch.exp(torch.rand(h, generator=random) * 14).long()
        past = 1_700_000_000 - gaps.flip(0).cumsum(0).flip(0)
        if times == "shuffled":
            past = past[torch.randperm(h, generator=random)]
        elif times == "one missing" and h > 1:
            past[1] = 0
        time += [*past.tolist(), *[1_700_000_000] * c]
    limit_R, time_R = torch.tensor(limit, dtype=torch.int64), torch.tensor(time, dtype=torch.int64)
    if limits == "any":
        limit_R = (limit_R * torch.rand(len(limit), generator=random)).long()
    bias = None
    if with_bias:
        position, time_table = (
            torch.randn(n, generator=random).to(DEVICE).requires_grad_() for n in (41, buckets)
        )
        bias = RelativeBias(position, time_table, time_bucket_boundaries(buckets).to(DEVICE))
    return Case(rows, q, k, v, limit_R.to(DEVICE), time_R.to(DEVICE), bias, window)


def error(out: Tensor, expected: Tensor) -> float:
    assert out.shape == expected.shape
    assert out.isfinite().all()
    norm = float(expected.norm())
    return float((out.double() - expected).norm()) / norm if norm else float(out.double().norm())


def check(case: Case, *, gradients: bool = True) -> None:
    dtype = case.q.dtype
    twin = case.widened()
    expected = twin.run("reference")
    out = case.run("triton")
    assert out.dtype == dtype
    assert error(out.detach(), expected.detach()) <= TOLERANCE[dtype]
    if not gradients or out.numel() == 0:
        return
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    found = torch.autograd.grad(out, case.tensors, grad)
    wanted = torch.autograd.grad(expected, twin.tensors, grad.double())
    for name, a, b in zip(("q", "k", "v", "position", "time"), found, wanted, strict=False):
        limits = TABLE_TOLERANCE if name in ("position", "time") else GRADIENT_TOLERANCE
        assert error(a, b) <= limits[dtype], name


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel leaves unwritten is NaN, not a lucky zero."""
    empty = torch.empty

    def poisoned(*args, **kwargs):
        out = empty(*args, **kwargs)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, with_bias: bool) -> None:
    check(make_case(LAYOUTS[layout], with_bias=with_bias))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_dtypes(dtype: torch.dtype, with_bias: bool) -> None:
    layout = AT_SIZE["long on the GPU"] if ON_GPU else [(40, 5), (3, 0)]
    widths = (128, 128) if ON_GPU else (32, 32)
    check(make_case(layout, dtype=dtype, with_bias=with_bias, widths=widths))


@pytest.mark.parametrize(
    "widths", [(32, 32), (25, 25), (48, 16), (16, 96), (64, 64), (128, 128), (256, 256), (64, 192)]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32] if ON_GPU else [torch.float32])
def test_widths(widths: tuple[int, int], dtype: torch.dtype) -> None:
    layout = AT_SIZE["many short"] if ON_GPU else [(20, 3)]
    check(make_case(layout, dtype=dtype, widths=widths, heads=3 if ON_GPU else 1))


@pytest.mark.parametrize("window", [1, 10, 40, 1000])
@pytest.mark.parametrize("limits", ["serving", "training", "any"])
def test_window(window: int, limits: str) -> None:
    layout = AT_SIZE["long on the GPU"] if ON_GPU else [(70, 3), (0, 2), (9, 1)]
    check(make_case(layout, window=window, limits=limits))


@pytest.mark.parametrize("limits", ["training", "any"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_limits_of_their_own(limits: str, with_bias: bool) -> None:
    layout = AT_SIZE["long on the GPU"] if ON_GPU else [(50, 20), (0, 2), (9, 30)]
    check(make_case(layout, limits=limits, with_bias=with_bias))


@pytest.mark.parametrize("times", ["shuffled", "one missing"])
def test_times_out_of_order(times: str) -> None:
    layout = AT_SIZE["long on the GPU"] if ON_GPU else [(50, 4)]
    check(make_case(layout, times=times))


def test_times_on_bucket_boundaries() -> None:
    """Differences of a boundary and one less, for each bucket, between the first row and others."""
    bounds = time_bucket_boundaries(64)[1:64].unique()
    apart = torch.stack([bounds - 1, bounds]).T.flatten()
    count = len(apart) + 1
    case = make_case([(count, 1)], buckets=64)
    times = torch.cat([torch.tensor([0]), apart, torch.tensor([int(apart[-1]) + 10**8])])
    check(replace(case, times=times.to(DEVICE)))


@settings(
    max_examples=60 if ON_GPU else 10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    layout=st.lists(
        st.tuples(st.integers(0, 300 if ON_GPU else 36), st.integers(0, 40 if ON_GPU else 18)),
        min_size=1,
        max_size=3,
    ),
    with_bias=st.booleans(),
    window=st.none() | st.integers(1, 40),
    limits=st.sampled_from(["serving", "training", "any"]),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    layout: list[tuple[int, int]], with_bias: bool, window: int | None, limits: str, seed: int
) -> None:
    check(make_case(layout, with_bias=with_bias, window=window, limits=limits, seed=seed))


def test_no_rows_at_all() -> None:
    check(make_case([(0, 0), (0, 0)]))


def test_a_score_does_not_depend_on_batch_mates() -> None:
    layout = [(33, 3), (20, 8)]
    case = make_case(layout)
    together = case.run("triton")[:36]
    alone = hstu_attention(
        *(x[:36] for x in (case.q, case.k, case.v)),
        rows=JaggedRows(torch.tensor([33], device=DEVICE), torch.tensor([3], device=DEVICE)),
        key_limits=case.limits[:36],
        timestamps=case.times[:36],
        alpha=case.q.shape[2] ** -0.5,
        norm_length=64,
        bias=case.bias,
        backend="triton",
    )
    assert torch.equal(together, alone)


def test_a_poisoned_user_does_not_poison_others() -> None:
    case = make_case([(20, 3), (21, 2), (9, 0)])
    with torch.no_grad():
        for x in (case.q, case.k, case.v):
            x[23:46] = math.nan
    out = case.run("triton")
    assert out[:23].isfinite().all()
    assert out[46:].isfinite().all()


def test_more_room_than_rows_changes_nothing() -> None:
    case = make_case([(33, 3), (5, 1)])
    arguments = {
        "rows": case.rows,
        "key_limits": case.limits,
        "timestamps": case.times,
        "alpha": 0.25,
        "norm_length": 64,
        "bias": case.bias,
        "backend": "triton",
    }
    exact = hstu_attention(case.q, case.k, case.v, **arguments)
    roomy = hstu_attention(case.q, case.k, case.v, max_rows=200, **arguments)
    assert torch.equal(exact, roomy)


def test_the_operator_keeps_the_rules_of_torch_library() -> None:
    case = make_case([(9, 2), (0, 1)])
    assert case.bias is not None
    plan_arguments = (case.times, case.rows.offsets, case.bias.boundaries, 11, "triton")
    torch.library.opcheck(torch.ops.genrec.plan_times, plan_arguments)
    arguments = (
        *(case.q, case.k, case.v, case.rows.offsets, case.rows.history_lengths),
        *(case.limits, case.times, *case.bias, *torch.ops.genrec.plan_times(*plan_arguments)),
        *(11, 0.25, 64, None, "triton"),
    )
    torch.library.opcheck(torch.ops.genrec.hstu_attention, arguments)


def test_what_triton_lacks_is_refused() -> None:
    case = make_case([(9, 2)])
    with pytest.raises(BackendUnavailable, match="hstu_attention is not implemented in it"):
        replace(case, q=case.q.double(), k=case.k.double(), v=case.v.double()).run("triton")
