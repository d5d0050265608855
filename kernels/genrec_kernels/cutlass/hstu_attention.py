"""Launches the CUTLASS attention kernels.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.bias_tiles import (
    NO_WINDOW,
    PARTS,
    TILE_BYTES,
    edge_tiles,
    new_tiles,
    tiles_of,
)
from genrec_kernels.cutlass.block_sizes import MOST_SEQUENCES
from genrec_kernels.cutlass.claims import claim_counter
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels, launch
from genrec_kernels.cutlass.parameters import (
    BiasParameters,
    BiasTiles,
    bias_tiles_parameters,
    forward_parameters,
)
from genrec_kernels.cutlass.variants import (
    ELEMENTS,
    WIDTHS,
    AttentionVariant,
    BiasTilesVariant,
    variant_of,
)
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.time_plan import MAX_TRITON_BUCKETS, TimePlan

#: Keys and values of sequences and heads that run side by side should stay in the L2 cache.
L2_BYTES = 32 * 2**20
#: Memory of a bias's tiles, at most; of more sequences they are made in turns.
MOST_TILE_BYTES = 640 * 2**20
_ALIGNMENT = 16


def unsupported(q: Tensor, v: Tensor, *, bias: RelativeBias | None, max_rows: int) -> str | None:
    """Why no compiled kernel takes these inputs, whatever the GPU; None if one does."""
    width = q.shape[2]
    if bias is not None:
        num_buckets = bias.time.shape[0]
        if num_buckets > MAX_TRITON_BUCKETS:
            return f"its kernels take at most {MAX_TRITON_BUCKETS} time buckets, not {num_buckets}"
        if sequences_at_once(max_rows) == 0:
            return (
                f"the bias of one sequence of {max_rows} rows would take more than "
                f"{MOST_TILE_BYTES >> 20} MiB"
            )
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
    rows = _Rows(offsets.contiguous(), histories.contiguous(), key_limits.contiguous(), max_rows)
    with on_device_of(q):
        launch_part = partial(
            _launch,
            kernel,
            q=for_tma(q),
            k=for_tma(k),
            v=for_tma(v),
            out=out,
            window=window or 0,
            half_alpha=alpha / 2,
            inverse_norm=1 / norm_length,
        )
        if bias is None:
            launch_part(rows, bias=None)
            return out
        tables = _bias_parameters(bias, times, alpha)
        turns = turns_of(num_sequences, sequences_at_once(max_rows))
        vectors = new_tiles(turns[0].stop, max_rows, q.device)
        for turn in turns:
            part = rows.of_sequences(turn)
            buckets = tables.buckets[turn.start : turn.stop]
            _make_tiles(vectors, part, tables._replace(buckets=buckets), window)
            launch_part(part, bias=BiasTiles(vectors, tiles_of(max_rows)))
    return out


class _Rows(NamedTuple):
    """Which rows a launch has, as `forward` has them."""

    offsets: Tensor
    histories: Tensor
    key_limits: Tensor
    max_rows: int

    @property
    def num_sequences(self) -> int:
        return self.histories.shape[0]

    def of_sequences(self, some: range) -> _Rows:
        """Of these alone; row numbers stay."""
        return self._replace(
            offsets=self.offsets[some.start : some.stop + 1],
            histories=self.histories[some.start : some.stop],
        )


def _launch(
    kernel: CompiledKernel[AttentionVariant],
    rows: _Rows,
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    bias: BiasTiles | None,
    window: int,
    half_alpha: float,
    inverse_norm: float,
) -> None:
    variant = kernel.variant
    parameters = forward_parameters(
        variant,
        q=q,
        k=k,
        v=v,
        out=out,
        offsets=rows.offsets,
        histories=rows.histories,
        key_limits=rows.key_limits,
        claimed=claim_counter(q.device),
        bias=bias,
        group=side_by_side(q, rows.max_rows, rows.num_sequences),
        window=window,
        half_alpha=half_alpha,
        inverse_norm=inverse_norm,
    )
    most_tiles = rows.num_sequences * q.shape[1] * -(-rows.max_rows // variant.rows)
    blocks = min(multiprocessors(q.device) * variant.resident, most_tiles)
    launch(kernel, parameters, blocks=blocks, device=q.device)


def _make_tiles(vectors: Tensor, rows: _Rows, bias: BiasParameters, window: int | None) -> None:
    edge = edge_tiles(rows.max_rows)
    parameters = bias_tiles_parameters(
        vectors=vectors,
        offsets=rows.offsets,
        histories=rows.histories,
        key_limits=rows.key_limits,
        bias=bias,
        edge=edge,
        window=NO_WINDOW if window is None else window,
    )
    kernel = compiled_kernels()[BiasTilesVariant().name]
    blocks = PARTS * edge * rows.num_sequences
    launch(kernel, parameters, blocks=blocks, device=vectors.device)


def turns_of(num_sequences: int, at_once: int) -> list[range]:
    """At least one sequence in as few turns as can be; the first has the most."""
    size = -(-num_sequences // -(-num_sequences // at_once))
    return [
        range(first, min(first + size, num_sequences)) for first in range(0, num_sequences, size)
    ]


def sequences_at_once(max_rows: int) -> int:
    """How many sequences' tiles of a bias may be in memory at once; 0 where not even one's may."""
    return MOST_TILE_BYTES // (tiles_of(max(max_rows, 1)) * TILE_BYTES)


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
