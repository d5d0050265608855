"""Paged histories, and how close to its twin a kernel has to come, for the suites of paged ops."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.fp8_pages import FP8, scales_for
from genrec_kernels.paged_hstu_attention import paged_hstu_attention
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries

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
    qk_scale: float | None = None
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
        """In float64; with a `qk_scale`, rounded as where products are in eight bits."""
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
            if self.qk_scale is not None:
                options["q_scales"] = self.qk_scale / scales[0]
        return reference.paged_hstu_attention(**wide, **options)

    def check(self, out: Tensor, tolerance: float | None = None) -> None:
        expected = self.expected()
        assert out.dtype == self.q.dtype
        assert out.shape == expected.shape
        assert bool(out.isfinite().all())
        error = (out.double() - expected).norm() / expected.norm().clamp(min=1e-30)
        allowed = tolerance or TOLERANCE[self.q.dtype]
        assert float(error) <= allowed, float(error)


class PagedHistories(NamedTuple):
    """float32 [P, H, S, 2·D], int64 [P, S] and int32 [B, M]."""

    kv_pages: Tensor
    timestamp_pages: Tensor
    page_table: Tensor


def paged_histories(
    lengths: list[int], *, page: int, heads: int, width: int, span: int, random: torch.Generator
) -> PagedHistories:
    """Histories in pages in random order, at times before `span`. Rows that are no history's are
    NaN, and the page table points outside of the cache past each history's last page."""
    needed = [-(-length // page) for length in lengths]
    order = torch.randperm(sum(needed) + 2, generator=random)
    pages = torch.full((len(order), heads, page, 2 * width), torch.nan)
    times = torch.full((len(order), page), -(10**15))
    table = torch.full((len(lengths), max([*needed, 1])), 10**8, dtype=torch.int32)
    taken = 0
    for request, length in enumerate(lengths):
        own = order[taken : taken + needed[request]]
        taken += needed[request]
        table[request, : len(own)] = own.int()
        where = torch.arange(length)
        at = own[where // page], where % page
        pages[at[0], :, at[1]] = torch.randn(length, heads, 2 * width, generator=random)
        times[at] = torch.randint(0, span, (length,), generator=random).sort().values
    return PagedHistories(pages, times, table)


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
    """New rows over `paged_histories`."""
    g = torch.Generator().manual_seed(seed)
    total = sum(new for _, new in layout)
    pages, times, table = paged_histories(
        [cached for cached, _ in layout], page=page, heads=heads, width=width, span=span, random=g
    )
    limits, row_times = [], []
    for request, (cached, new) in enumerate(layout):
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
    pages, heads, page, width = case.kv_pages.shape
    # Some keys are beyond what fits, and are cut; values reach less than half as far.
    keys, values = torch.linspace(2.5, 10.0, 2 * heads, device=DEVICE).chunk(2)
    scales = scales_for(keys, values, width // 2)
    rows = case.kv_pages.float().transpose(1, 2).reshape(pages * page, heads, width)
    narrow = torch.full(case.kv_pages.shape, torch.nan, device=DEVICE).to(FP8)
    slots = torch.arange(len(rows), device=DEVICE)
    reference.page_write(*rows.chunk(2, dim=-1), slots, kv_pages=narrow, kv_scales=scales)
    return replace(case, kv_pages=narrow, kv_scales=scales)


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
