"""The shapes of the attention benchmarks, and inputs of those shapes.

The shapes are those that other HSTU kernels' figures are given for, so that figures compare.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genrec_kernels.dispatch import Backend
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries
from genrec_kernels.time_plan import TimePlan, plan_times

BATCH, CANDIDATES, TIME_BUCKETS = 32, 32, 64
NOW = 1_700_000_000


@dataclass(frozen=True, kw_only=True)
class AttentionCase:
    """A shape to time attention at.

    Args:
        direction: "fwd" or "bwd".
        lengths: "uniform" or "varied".
        longest: rows of the longest sequence, its candidates among them.
        bias: with position and time bias.
        heads, width: of q, k and v.
        batch: sequences.
        suffix: of the name, for other heads.
        fp8: in eight bits, forward without bias only.
    """

    direction: str
    lengths: str
    longest: int
    bias: bool = False
    heads: int = 4
    width: int = 128
    batch: int = BATCH
    suffix: str = ""
    fp8: bool = False

    @property
    def name(self) -> str:
        """As in the column `case` of the records."""
        bias = "-bias" if self.bias else ""
        fp8 = "-fp8" if self.fp8 else ""
        return f"attn-{self.direction}-{self.lengths}-{self.longest}{bias}{self.suffix}{fp8}"

    @property
    def rows(self) -> list[int]:
        """Rows of each sequence."""
        if self.lengths == "uniform":
            return [self.longest] * self.batch
        draw = random.Random(f"0-{self.longest}-{self.batch}")
        rows = [draw.randint(self.longest // 8, self.longest) for _ in range(self.batch)]
        return [self.longest, *rows[1:]]

    @property
    def flops(self) -> float:
        """Of the causal half; backward counts 5 products where forward has 2."""
        forward = 4 * sum(n * n for n in self.rows) / 2 * self.heads * self.width
        return forward * (1 if self.direction == "fwd" else 2.5)


@dataclass(frozen=True, kw_only=True)
class AttentionInputs:
    """Inputs of `hstu_attention` and of its gradient."""

    q: Tensor
    k: Tensor
    v: Tensor
    grad_out: Tensor
    layout: JaggedRows
    key_limits: Tensor
    timestamps: Tensor
    bias: RelativeBias | None
    max_rows: int
    alpha: float
    backend: Backend = "triton"

    @cached_property
    def time_plan(self) -> TimePlan | None:
        """Made once, as a model makes it for all its layers."""
        return None if self.bias is None else self.plan()

    def plan(self) -> TimePlan | None:
        """Make the time plan."""
        assert self.bias is not None
        return plan_times(
            self.timestamps,
            rows=self.layout,
            boundaries=self.bias.boundaries,
            max_rows=self.max_rows,
            backend="triton",
        )

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Of the operator `genrec::hstu_attention`, forced to a backend."""
        tables = (None, None, None) if self.bias is None else tuple(self.bias)
        plan = (None, None) if self.time_plan is None else tuple(self.time_plan)
        return (
            *(self.q, self.k, self.v, self.layout.offsets, self.layout.history_lengths),
            *(self.key_limits, self.timestamps, *tables, *plan),
            *(self.max_rows, self.alpha, self.max_rows, None, self.backend),
        )


def make_inputs(case: AttentionCase, dtype: torch.dtype, rows: list[int]) -> AttentionInputs:
    """Random inputs on the GPU.

    Events come in sessions: 70 % within about a minute of the one before, 25 % within 8 hours,
    5 % days later. What the bias costs depends on this, as tiles whose time differences lie in
    at most two buckets take a shorter way.
    """
    random_gpu = torch.Generator("cuda").manual_seed(0)
    shape = (sum(rows), case.heads, case.width)
    q, k, v, grad_out = (
        torch.randn(shape, device="cuda", generator=random_gpu).to(dtype) for _ in range(4)
    )
    random_cpu = torch.Generator().manual_seed(0)
    limits, times = [], []
    for count in rows:
        history = count - CANDIDATES
        kind, share = torch.rand(2, history, generator=random_cpu)
        gap = torch.where(kind < 0.95, 60 + share * 8 * 3600, 86400 * (0.5 + 4 * share))
        gap = torch.where(kind < 0.7, 5 + share * 60, gap).long()
        times += [NOW + gap.cumsum(0), (NOW + gap.sum() + 600).expand(CANDIDATES)]
        limits += [torch.arange(history), torch.full((CANDIDATES,), history)]
    bias = None
    if case.bias:
        position, time = (
            torch.randn(size, device="cuda", generator=random_gpu) / 2
            for size in (max(rows) + 1, TIME_BUCKETS)
        )
        bias = RelativeBias(position, time, time_bucket_boundaries(TIME_BUCKETS).cuda())
    history_R = torch.tensor([count - CANDIDATES for count in rows], device="cuda")
    return AttentionInputs(
        q=q,
        k=k,
        v=v,
        grad_out=grad_out,
        layout=JaggedRows(history_R, torch.full_like(history_R, CANDIDATES)),
        key_limits=torch.cat(limits).cuda(),
        timestamps=torch.cat(times).cuda(),
        bias=bias,
        max_rows=max(rows),
        alpha=case.width**-0.5,
    )
