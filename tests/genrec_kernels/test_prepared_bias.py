"""A bias that is prepared once, on a CPU: what it holds, where it is refused, compile and export.

`hstu_attention_cases.py` and `cutlass_cases.py` compare what the kernels make of it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from genrec_kernels.cutlass import hstu_attention as compiled
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.prepared_bias import NO_TABLES, PreparedBias, prepare_bias
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries
from genrec_kernels.time_plan import TimePlan

ALPHA = 0.5
HISTORY, CANDIDATES = torch.tensor([5, 0, 9]), torch.tensor([2, 3, 0])
LIMITS = torch.tensor([0, 1, 2, 3, 4, 5, 5, 0, 0, 0, *range(9)])
ROWS = len(LIMITS)


def bias_of(buckets: int = 20, *, trained: bool = False) -> RelativeBias:
    random = torch.Generator().manual_seed(0)
    position, time = (torch.randn(n, generator=random) for n in (12, buckets))
    tables = (x.requires_grad_(trained) for x in (position, time))
    return RelativeBias(*tables, time_bucket_boundaries(buckets))


def attend(bias: RelativeBias | PreparedBias, q: Tensor, *, alpha: float = ALPHA) -> Tensor:
    return hstu_attention(
        q,
        q.flip(0),
        q + 1,
        rows=JaggedRows(HISTORY, CANDIDATES),
        key_limits=LIMITS,
        timestamps=torch.arange(ROWS) * 100,
        alpha=alpha,
        norm_length=16,
        bias=bias,
        max_rows=9,
    )


def rows() -> Tensor:
    return torch.randn(ROWS, 2, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("buckets", [20, 68], ids=["kernels take it", "only the reference does"])
def test_the_reference_takes_it(buckets: int) -> None:
    bias, q = bias_of(buckets), rows()
    prepared = prepare_bias(bias, alpha=ALPHA)
    assert (prepared.operator_tables == NO_TABLES) == (buckets > 67)
    assert torch.equal(attend(prepared, q), attend(bias, q))


def test_what_does_not_fit_is_refused() -> None:
    prepared, q = prepare_bias(bias_of(), alpha=ALPHA), rows()
    with pytest.raises(ValueError, match=r"prepared for alpha 0\.5, not 0\.25"):
        attend(prepared, q, alpha=0.25)
    elsewhere = RelativeBias(*(x.to("meta") for x in prepared.bias))
    with pytest.raises(ValueError, match="prepared on meta, the rows are on cpu"):
        attend(replace(prepared, bias=elsewhere), q)


def test_it_is_refused_where_its_tables_are_trained() -> None:
    prepared, q = prepare_bias(bias_of(trained=True), alpha=ALPHA), rows()
    with pytest.raises(ValueError, match="gets no gradient"):
        attend(prepared, q)
    with torch.no_grad():
        attend(prepared, q)


def test_cutlass_takes_the_tables_as_they_are() -> None:
    bias = bias_of()
    tables = prepare_bias(bias, alpha=ALPHA).over_alpha
    plan = TimePlan(torch.zeros(3, dtype=torch.int32), torch.zeros(1, 4, 4, dtype=torch.int16))
    parameters = compiled._bias_parameters(bias, tables, plan, ALPHA)
    assert tables is not None
    assert parameters.pairs is tables.pairs
    assert parameters.cells is tables.cells


class Attention(nn.Module):
    """One attention whose weights stay."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared = prepare_bias(bias_of(), alpha=ALPHA)

    def forward(self, q: Tensor) -> Tensor:
        return attend(self.prepared, q)


def test_compiled_in_one_graph_and_exported() -> None:
    model, q = Attention(), rows()
    with torch.no_grad():
        whole = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(whole(q), model(q))
        program = torch.export.export(model, (q,))
        torch.testing.assert_close(program.module()(q), model(q))
    (call,) = (
        node
        for node in program.graph.nodes
        if node.target is torch.ops.genrec.hstu_attention.default
    )
    assert all(argument is not None for argument in call.args[-4:])
