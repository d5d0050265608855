"""The public op on a CPU: checks of arguments, the reference behind it, compile and export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genrec_kernels import reference
from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.jagged import JaggedRows
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries

HISTORY, CANDIDATES = torch.tensor([5, 0, 9]), torch.tensor([2, 3, 0])
ROWS = int((HISTORY + CANDIDATES).sum())


class Attention(nn.Module):
    """One attention with learned tables, as a layer has it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.position = nn.Parameter(torch.randn(12, dtype=torch.float64))
        self.time = nn.Parameter(torch.randn(20, dtype=torch.float64))
        self.register_buffer("boundaries", time_bucket_boundaries(20))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, limits: Tensor, times: Tensor) -> Tensor:
        return hstu_attention(
            q,
            k,
            v,
            rows=JaggedRows(HISTORY, CANDIDATES),
            key_limits=limits,
            timestamps=times,
            alpha=0.5,
            norm_length=16,
            bias=RelativeBias(self.position, self.time, self.boundaries),
            max_rows=9,
        )


def inputs() -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(ROWS, 2, width, generator=random, dtype=torch.float64) for width in (8, 8, 4)
    )
    limits = torch.cat(
        [
            torch.cat([torch.arange(h), torch.full((c,), h)])
            for h, c in zip(HISTORY.tolist(), CANDIDATES.tolist(), strict=True)
        ]
    )
    return [q, k, v, limits, torch.arange(ROWS) * 100]


def test_eager_is_the_reference() -> None:
    model, (q, k, v, limits, times) = Attention(), inputs()
    expected = reference.hstu_attention(
        q,
        k,
        v,
        rows=JaggedRows(HISTORY, CANDIDATES),
        key_limits=limits,
        timestamps=times,
        alpha=0.5,
        norm_length=16,
        bias=RelativeBias(model.position, model.time, model.boundaries),
    )
    torch.testing.assert_close(model(q, k, v, limits, times), expected)


def test_the_formula_of_the_gradient_is_autograds() -> None:
    model, (q, k, v, limits, times) = Attention(), inputs()
    for x in (q, k, v):
        x.requires_grad_()
    leaves = [q, k, v, model.position, model.time]
    arguments = {
        "rows": JaggedRows(HISTORY, CANDIDATES),
        "key_limits": limits,
        "timestamps": times,
        "alpha": 0.5,
        "norm_length": 16,
        "bias": RelativeBias(model.position, model.time, model.boundaries),
        "window": 4,
    }
    out = reference.hstu_attention(q, k, v, **arguments)
    grad = torch.randn(out.shape, dtype=out.dtype)
    expected = torch.autograd.grad(out, leaves, grad)
    with torch.no_grad():
        found = reference.hstu_attention_backward(grad, q, k, v, **arguments)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_window_hides_what_is_older() -> None:
    q, k, v, limits, times = inputs()
    arguments = {
        "rows": JaggedRows(HISTORY, CANDIDATES),
        "key_limits": limits,
        "timestamps": times,
        "alpha": 0.5,
        "norm_length": 16,
    }
    wide = hstu_attention(q, k, v, **arguments, window=5)
    changed = k.clone()
    changed[0] += 1  # seen by rows 1 and 2 of the first sequence through a window of 2
    narrow, moved = (hstu_attention(q, x, v, **arguments, window=2) for x in (k, changed))
    torch.testing.assert_close(wide[:7], hstu_attention(q, k, v, **arguments)[:7])
    assert not torch.equal(narrow[2], moved[2])
    torch.testing.assert_close(narrow[3:], moved[3:])


def test_compiled_in_one_graph_with_its_gradient() -> None:
    model, (q, k, v, limits, times) = Attention(), inputs()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    leaves = [*model.parameters()]
    wanted = model(q, k, v, limits, times)
    found = compiled(q, k, v, limits, times)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad(found.sin().sum(), leaves),
        torch.autograd.grad(wanted.sin().sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_exported_as_one_operator() -> None:
    model, arguments = Attention(), inputs()
    program = torch.export.export(model, tuple(arguments))
    called = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert torch.ops.genrec.hstu_attention.default in called
    torch.testing.assert_close(program.module()(*arguments), model(*arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(ROWS, 2, 4, dtype=torch.float64)}, "q and k must be"),
        ({"v": torch.zeros(ROWS, 1, 4, dtype=torch.float64)}, "q and k must be"),
        ({"v": torch.zeros(ROWS, 2, 4)}, "differ in dtype"),
        ({"key_limits": torch.zeros(3, dtype=torch.int64)}, r"must be \[R\]"),
        ({"window": 0}, "must be positive"),
        ({"norm_length": 0}, "must be positive"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    q, k, v, limits, times = inputs()
    arguments = {
        "q": q,
        "k": k,
        "v": v,
        "rows": JaggedRows(HISTORY, CANDIDATES),
        "key_limits": limits,
        "timestamps": times,
        "alpha": 1.0,
        "norm_length": 4,
    }
    with pytest.raises(ValueError, match=message):
        hstu_attention(**(arguments | change))
