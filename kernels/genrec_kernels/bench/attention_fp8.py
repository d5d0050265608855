"""Attention in eight bits among the attention benchmarks: its cases, and what is timed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from genrec_kernels.bench.attention_inputs import AttentionCase, AttentionInputs
from genrec_kernels.fp8_layout import Fp8Rows
from genrec_kernels.fp8_rows import to_fp8
from genrec_kernels.hstu_attention_fp8 import attention_of_fp8_rows


def fp8_cases() -> list[AttentionCase]:
    """Of the CUTLASS kernels; beside each, the same in bfloat16 is timed."""
    shapes = [
        AttentionCase(direction="fwd", lengths=lengths, longest=longest, fp8=True)
        for lengths, longest in (("uniform", 2048), ("uniform", 8192), ("varied", 8192))
    ]
    for heads, width, batch, suffix in ((4, 256, 16, "-d256-b16"), (8, 64, 32, "-d64")):
        shapes.append(
            AttentionCase(
                direction="fwd",
                lengths="uniform",
                longest=8192,
                heads=heads,
                width=width,
                batch=batch,
                suffix=suffix,
                fp8=True,
            )
        )
    return shapes


def rounded(inputs: AttentionInputs) -> Fp8Rows:
    """q, k and v in eight bits, by scales that are found in them."""
    return to_fp8(inputs.q, inputs.k, inputs.v, rows=inputs.layout)


def launch_fp8(inputs: AttentionInputs) -> Callable[[], Tensor]:
    """The attention of rows that were rounded before."""
    operands = rounded(inputs)
    return lambda: attention_of_fp8_rows(
        operands,
        rows=inputs.layout,
        key_limits=inputs.key_limits,
        alpha=inputs.alpha,
        norm_length=inputs.max_rows,
        max_rows=inputs.max_rows,
        backend=inputs.backend,
    )
