"""Launches the CUTLASS attention kernels.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.block_sizes import MOST_SEQUENCES
from genrec_kernels.cutlass.claims import claim_counter
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels, launch
from genrec_kernels.cutlass.parameters import BiasParameters, forward_parameters
from genrec_kernels.cutlass.variants import ELEMENTS, WIDTHS, AttentionVariant, variant_of
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.time_plan import MAX_TRITON_BUCKETS, TimePlan

#: Keys and values of sequences and heads that run side by side should stay in the L2 cache.
L2_BYTES = 32 * 2**20
_ALIGNMENT = 16


def unsupported(q: Tensor, v: Tensor, *, num_buckets: int) -> str | None:
    """Why no compiled kernel takes these inputs, whatever the GPU; None if one does."""
    width = q.shape[2]
    if num_buckets > MAX_TRITON_BUCKETS:
        return f"its kernels take at most {MAX_TRITON_BUCKETS} time buckets, not {num_buckets}"
    if q.dtype not in ELEMENTS or width not in WIDTHS or v.shape[2] != width:
        return (
            f"its kernels take bfloat16 and float16, and heads of {', '.join(map(str, WIDTHS))}, "
            f"values as wide as keys, not {q.dtype} of {width} and {v.shape[2]}"
        )
    return None


def forward(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    offsets: Tensor,
    histories: Tensor,
    key_limits: Tensor,
    max_rows: int,
    alpha: float,
    norm_length: int,
    window: int | None,
    bias: RelativeBias | None = None,
    times: TimePlan | None = None,
    kernel: CompiledKernel[AttentionVariant] | None = None,
) -> Tensor:
    """As `genrec_kernels.hstu_attention`.

    Args:
        q, k, v: bfloat16 or float16 [R, H, D] on a Hopper GPU, the last axis contiguous.
        offsets: int64 [B + 1], first row of each sequence.
        histories: int64 [B], history rows of each sequence.
        key_limits: int64 [R].
        max_rows: at least the rows of the longest sequence.
        bias, times: with a bias, also the batch's time plan.
        kernel: instead of the one for these inputs, for tuning.

    Returns:
        [R, H, D] in the dtype of v.
    """
    if kernel is None:
        variant = variant_of(
            ELEMENTS[q.dtype],
            q.shape[2],
            bias=bias is not None,
            window=window is not None,
            max_rows=max_rows,
        )
        kernel = compiled_kernels()[variant.name]
    variant = kernel.variant
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if q.shape[0] == 0:
        return out
    num_sequences = offsets.shape[0] - 1
    most_tiles = num_sequences * q.shape[1] * -(-max_rows // variant.rows)
    with on_device_of(q):
        parameters = forward_parameters(
            variant,
            q=for_tma(q),
            k=for_tma(k),
            v=for_tma(v),
            out=out,
            offsets=offsets.contiguous(),
            histories=histories.contiguous(),
            key_limits=key_limits.contiguous(),
            claimed=claim_counter(q.device),
            bias=None if bias is None else _bias_parameters(bias, times, alpha),
            group=side_by_side(q, max_rows, num_sequences),
            window=window or 0,
            half_alpha=alpha / 2,
            inverse_norm=1 / norm_length,
        )
        blocks = min(multiprocessors(q.device) * variant.resident, most_tiles)
        launch(kernel, parameters, blocks=blocks, device=q.device)
    return out


def side_by_side(q: Tensor, max_rows: int, num_sequences: int) -> int:
    """How many sequences' keys and values, as wide as q [R, H, D], the L2 cache should hold."""
    sequence_bytes = max_rows * q.shape[1] * 2 * q.shape[2] * q.element_size()
    return max(min(L2_BYTES // max(sequence_bytes, 1), num_sequences, MOST_SEQUENCES), 1)


def _bias_parameters(bias: RelativeBias, times: TimePlan | None, alpha: float) -> BiasParameters:
    from genrec_kernels.triton.bias_tables import make_bias_tables

    if times is None:
        raise ValueError("the CUTLASS kernels need a time plan with the bias: see plan_times")
    return BiasParameters(*times, *make_bias_tables(bias, 1 / alpha))


def for_tma(x: Tensor) -> Tensor:
    """The tensor itself if TMA can read it, else a copy."""
    return x if reads_by_tma(x) else x.clone(memory_format=torch.contiguous_format)


def reads_by_tma(x: Tensor) -> bool:
    """Whether TMA can read it: the last axis contiguous, the rest at multiples of 16 bytes."""
    strides = (n * x.element_size() for n in x.stride()[:-1])
    return x.stride(-1) == 1 and all(n % _ALIGNMENT == 0 for n in (x.data_ptr(), *strides))


@cache
def multiprocessors(device: torch.device) -> int:
    """Of a GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count
