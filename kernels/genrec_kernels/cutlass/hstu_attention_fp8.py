"""Launches the CUTLASS attention kernels of eight bits.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.claims import claim_counter
from genrec_kernels.cutlass.hstu_attention import multiprocessors, side_by_side
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels, launch
from genrec_kernels.cutlass.parameters import HeadScales, forward_parameters
from genrec_kernels.cutlass.variants import WIDTHS, AttentionVariant, fp8_variant_of
from genrec_kernels.fp8_layout import Fp8Rows


def unsupported(q: Tensor) -> str | None:
    """Why no compiled kernel takes rows like q, whatever the GPU; None if one does."""
    width = q.shape[2]
    if width not in WIDTHS:
        return f"its kernels take heads of {', '.join(map(str, WIDTHS))}, not of {width}"
    if compiled_kernels() and fp8_variant_of(width).name not in compiled_kernels():
        return "its kernels of eight bits were not compiled (make kernels)"
    return None


def forward(
    operands: Fp8Rows,
    *,
    offsets: Tensor,
    histories: Tensor,
    key_limits: Tensor,
    max_rows: int,
    alpha: float,
    norm_length: int,
    kernel: CompiledKernel[AttentionVariant] | None = None,
) -> Tensor:
    """As `genrec_kernels.hstu_attention_fp8.attention_of_fp8_rows`.

    Args:
        operands: on a Hopper GPU.
        offsets: int64 [B + 1], first row of each sequence.
        histories: int64 [B], history rows of each sequence.
        key_limits: int64 [R].
        max_rows: at least the rows of the longest sequence.
        kernel: instead of the one for these inputs, for tuning.

    Returns:
        bfloat16 [R, H, D].
    """
    q, k, v, scales = operands
    num_rows, heads, width = q.shape
    if kernel is None:
        kernel = compiled_kernels()[fp8_variant_of(width).name]
    variant = kernel.variant
    out = torch.empty(q.shape, dtype=torch.bfloat16, device=q.device)
    if num_rows == 0:
        return out
    num_sequences = offsets.shape[0] - 1
    most_tiles = num_sequences * heads * -(-max_rows // variant.rows)
    with on_device_of(q):
        parameters = forward_parameters(
            variant,
            q=q,
            k=k,
            v=v,
            out=out,
            offsets=offsets.contiguous(),
            histories=histories.contiguous(),
            key_limits=key_limits.contiguous(),
            claimed=claim_counter(q.device),
            bias=None,
            group=side_by_side(q, max_rows, num_sequences),
            window=0,
            half_alpha=alpha / 2,
            inverse_norm=1 / norm_length,
            scales=HeadScales((scales.q * scales.k).contiguous(), scales.v.contiguous()),
        )
        blocks = min(multiprocessors(q.device) * variant.resident, most_tiles)
        launch(kernel, parameters, blocks=blocks, device=q.device)
    return out
