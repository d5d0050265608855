"""What attention is compared to in the same run: what PyTorch itself offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from genrec_kernels import reference
from genrec_kernels.bench.attention_inputs import AttentionCase, AttentionInputs
from genrec_kernels.relative_bias import RelativeBias, time_bucket

#: Scores of all sequences and heads beyond which plain PyTorch does not fit the GPU.
MOST_SCORES = 3 * 2**30


def plain(inputs: AttentionInputs) -> Tensor:
    """The jagged twin in eager PyTorch."""
    return reference.hstu_attention(
        inputs.q,
        inputs.k,
        inputs.v,
        rows=inputs.layout,
        key_limits=inputs.key_limits,
        timestamps=inputs.timestamps,
        alpha=inputs.alpha,
        norm_length=inputs.max_rows,
        bias=inputs.bias,
    )


def compiled(inputs: AttentionInputs) -> Callable[[], Tensor]:
    """The padded twin through torch.compile; padding is done beforehand."""
    rows = inputs.layout
    q, k, v, limits, times = (
        rows.pad(x).contiguous()
        for x in (inputs.q, inputs.k, inputs.v, inputs.key_limits, inputs.timestamps)
    )
    tables = inputs.bias

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        key_T = torch.arange(q.shape[1], device=q.device)
        score = torch.einsum("bihd,bjhd->bhij", q, k) * inputs.alpha
        if tables is not None:
            distance = limits[:, :, None] - key_T
            seconds = times[:, :, None] - times[:, None, :]
            score = score + tables(distance, seconds)[:, None].to(score.dtype)
        seen = (key_T < limits[:, :, None]) | (key_T == key_T[:, None])
        weight = F.silu(score) / inputs.max_rows * seen[:, None]
        return torch.einsum("bhij,bjhd->bihd", weight, v)

    run = torch.compile(attend)
    return lambda: run(q, k, v)


def flex(case: AttentionCase, inputs: AttentionInputs) -> Callable[[], Tensor]:
    """FlexAttention with the same mask and bias, but softmax for SiLU, which it cannot have.

    So a yardstick and not the same function. Uniform lengths only.
    """
    if case.lengths != "uniform":
        raise ValueError("this baseline takes uniform lengths only")
    shape = (case.batch, case.longest, case.heads, case.width)
    q, k, v = (x.view(shape).transpose(1, 2).contiguous() for x in (inputs.q, inputs.k, inputs.v))
    limits = inputs.key_limits.view(shape[:2]).int()
    times = inputs.timestamps.view(shape[:2])

    def seen(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:  # noqa: ARG001
        return (j < limits[b, i]) | (i == j)

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:  # noqa: ARG001
        assert inputs.bias is not None
        position, time, boundaries = inputs.bias
        distance = (limits[b, i] - j).clamp(0, position.shape[0] - 1)
        bucket = time_bucket(times[b, i] - times[b, j], boundaries)
        return score + position[distance] + time[bucket]

    mask = create_block_mask(seen, case.batch, None, case.longest, case.longest, "cuda")
    run = torch.compile(flex_attention)
    modify = biased if case.bias else None
    return lambda: run(q, k, v, score_mod=modify, block_mask=mask, scale=inputs.alpha)


def exact(inputs: AttentionInputs) -> tuple[Tensor, reference.HSTUAttentionGradients]:
    """Output and gradients in float64."""
    q, k, v, grad_out = (x.double() for x in (inputs.q, inputs.k, inputs.v, inputs.grad_out))
    bias = inputs.bias
    if bias is not None:
        bias = RelativeBias(bias.position.double(), bias.time.double(), bias.boundaries)
    arguments: dict[str, Any] = {
        "rows": inputs.layout,
        "key_limits": inputs.key_limits,
        "timestamps": inputs.timestamps,
        "alpha": inputs.alpha,
        "norm_length": inputs.max_rows,
        "bias": bias,
    }
    out = reference.hstu_attention(q, k, v, **arguments)
    return out, reference.hstu_attention_backward(grad_out, q, k, v, **arguments)
