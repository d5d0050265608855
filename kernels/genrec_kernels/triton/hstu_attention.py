"""Launches the HSTU attention kernels.

Letters in shapes: R rows of all sequences, B sequences, H heads, Dk and Dv widths of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.dispatch import interpreting
from genrec_kernels.reference.hstu_attention_backward import HSTUAttentionGradients
from genrec_kernels.relative_bias import RelativeBias
from genrec_kernels.tiles import ShapeClass, Tile, tile_for
from genrec_kernels.time_plan import TimePlan
from genrec_kernels.triton.bias_tables import BiasTables, make_bias_tables
from genrec_kernels.triton.hstu_attention_backward import (
    hstu_attention_backward_kv,
    hstu_attention_backward_q,
)
from genrec_kernels.triton.hstu_attention_bias_gradient import hstu_attention_bias_gradient
from genrec_kernels.triton.hstu_attention_forward import hstu_attention_forward

#: Keys and values of sequences and heads that run side by side should stay in the L2 cache.
L2_BYTES = 32 * 2**20
#: Copies of the bias tables that gradients are summed into, so that programs seldom collide.
GRADIENT_COPIES = 32

_INTERPRETER_TILE = Tile(rows=32, keys=32, warps=1, stages=1)


@dataclass(frozen=True, kw_only=True)
class AttentionArguments:
    """What forward and backward have in common.

    Args:
        q, k: float [R, H, Dk], the last axis contiguous.
        v: float [R, H, Dv], likewise.
        offsets: int64 [B + 1], first row of each sequence.
        histories: int64 [B], history rows of each sequence.
        max_rows: at least the rows of the longest sequence.
        key_limits: int64 [R].
        alpha, norm_length, window, bias: as in `hstu_attention`.
        times: of the batch, where there is a bias.
        tile: instead of what the table says, for tuning.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    offsets: Tensor
    histories: Tensor
    max_rows: int
    key_limits: Tensor
    alpha: float
    norm_length: int
    window: int | None
    bias: RelativeBias | None
    times: TimePlan | None
    tile: Tile | None = None

    def tile_of(self, kernel: str) -> Tile:
        """The tile to launch a kernel with."""
        if self.tile is not None:
            return self.tile
        if not self.q.is_cuda:
            return _INTERPRETER_TILE
        widest = max(self.q.shape[2], self.v.shape[2])
        shape = ShapeClass(
            kernel=kernel,
            bits=self.q.element_size() * 8,
            width=tile_width(widest),
            bias=self.bias is not None,
        )
        return tile_for(shape, *_gpu(self.q.device.index))

    @property
    def layout(self) -> tuple[Tensor, Tensor, Tensor]:
        """Kernel arguments: where sequences begin and what rows see."""
        return self.offsets, self.histories, self.key_limits

    @cached_property
    def tables(self) -> BiasTables | None:
        """The bias tables as the kernels read them."""
        return None if self.bias is None else make_bias_tables(self.bias)

    @property
    def bias_arguments(self) -> tuple[Tensor | None, ...]:
        """Kernel arguments: times, buckets of blocks of scores, the tables."""
        if self.times is None or self.tables is None:
            return (None, None, None, None)
        return (*self.times, *self.tables)

    @property
    def num_blocks(self) -> int:
        """Blocks of rows that the times were planned in."""
        return 0 if self.times is None else self.times.buckets.shape[1]

    @property
    def strides(self) -> tuple[int, ...]:
        """Kernel arguments: row and head strides of q, k and v."""
        return tuple(x.stride(axis) for x in (self.q, self.k, self.v) for axis in (0, 1))

    @property
    def num_positions(self) -> int:
        """Entries of the position table."""
        return 0 if self.bias is None else self.bias.position.shape[0]

    def places(self, tile_rows: int) -> tuple[int, int, int]:
        """Kernel arguments: sequences times heads, tiles of the longest sequence, group."""
        pairs = (self.offsets.shape[0] - 1) * self.q.shape[1]
        pair_bytes = self.max_rows * (self.k.shape[2] + self.v.shape[2]) * self.k.element_size()
        group = max(1, min(pairs, L2_BYTES // max(pair_bytes, 1)))
        return pairs, triton.cdiv(self.max_rows, tile_rows), group

    @property
    def constants(self) -> dict[str, Any]:
        """Compile-time arguments."""
        interpreted = interpreting()
        return {
            "H": self.q.shape[1],
            "DK": self.q.shape[2],
            "DV": self.v.shape[2],
            "DK_TILE": tile_width(self.q.shape[2]),
            "DV_TILE": tile_width(self.v.shape[2]),
            "HAS_WINDOW": self.window is not None,
            "FAST": self.q.element_size() == 2 and not interpreted,
            "INTERPRETED": interpreted,
        }


def forward(a: AttentionArguments) -> Tensor:
    """[R, H, Dv] in the dtype of v."""
    out = torch.empty(a.v.shape, dtype=a.v.dtype, device=a.v.device)
    if a.q.shape[0] == 0:
        return out
    tile = a.tile_of("forward")
    pairs, row_tiles, group = a.places(tile.rows)
    tma = tile.tma and _fits_descriptor(a.k) and _fits_descriptor(a.v)
    with on_device_of(a.q):
        hstu_attention_forward[(pairs * row_tiles,)](
            a.q,
            a.k,
            a.v,
            out,
            _descriptor(a.k, tile.keys) if tma else None,
            _descriptor(a.v, tile.keys) if tma else None,
            *a.layout,
            *a.bias_arguments,
            *a.strides,
            pairs,
            row_tiles,
            group,
            a.num_positions,
            a.num_blocks,
            a.window or 0,
            a.alpha / 2,
            1 / a.norm_length,
            M=tile.rows,
            N=tile.keys,
            HAS_BIAS=a.bias is not None,
            CLAMP=a.num_positions < a.max_rows,
            TMA=tma,
            **a.constants,
            **tile.options,
        )
    return out


def backward(
    a: AttentionArguments, grad_out: Tensor, *, bias_gradients: bool
) -> HSTUAttentionGradients:
    """Gradients for `grad_out` [R, H, Dv]; those of the bias tables only if asked for."""
    grad_out = grad_out.contiguous()
    grad_q = torch.empty(a.q.shape, dtype=a.q.dtype, device=a.q.device)
    grad_k = torch.empty(a.k.shape, dtype=a.k.dtype, device=a.k.device)
    grad_v = torch.empty(a.v.shape, dtype=a.v.dtype, device=a.v.device)
    if a.q.shape[0] > 0:
        _backward_q(a, grad_out, grad_q)
        _backward_kv(a, grad_out, grad_k, grad_v)
    if a.bias is None or not bias_gradients:
        return HSTUAttentionGradients(grad_q, grad_k, grad_v, None, None)
    position, time = _backward_bias(a, a.bias, grad_out)
    return HSTUAttentionGradients(grad_q, grad_k, grad_v, position, time)


def _backward_q(a: AttentionArguments, grad_out: Tensor, grad_q: Tensor) -> None:
    tile = a.tile_of("backward_q")
    pairs, row_tiles, group = a.places(tile.rows)
    with on_device_of(a.q):
        hstu_attention_backward_q[(pairs * row_tiles,)](
            a.q,
            a.k,
            a.v,
            grad_out,
            grad_q,
            *a.layout,
            *a.bias_arguments,
            *a.strides,
            pairs,
            row_tiles,
            group,
            a.num_positions,
            a.num_blocks,
            a.window or 0,
            a.alpha / 2,
            a.alpha / a.norm_length,
            M=tile.rows,
            N=tile.keys,
            HAS_BIAS=a.bias is not None,
            **a.constants,
            **tile.options,
        )


def _backward_kv(a: AttentionArguments, grad_out: Tensor, grad_k: Tensor, grad_v: Tensor) -> None:
    tile = a.tile_of("backward_kv")
    pairs, key_tiles, group = a.places(tile.keys)
    with on_device_of(a.q):
        hstu_attention_backward_kv[(pairs * key_tiles,)](
            a.q,
            a.k,
            a.v,
            grad_out,
            grad_k,
            grad_v,
            *a.layout,
            *a.bias_arguments,
            *a.strides,
            pairs,
            key_tiles,
            group,
            a.num_positions,
            a.num_blocks,
            a.window or 0,
            a.alpha / 2,
            1 / a.norm_length,
            a.alpha / a.norm_length,
            M=tile.rows,
            N=tile.keys,
            HAS_BIAS=a.bias is not None,
            **a.constants,
            **tile.options,
        )


def _backward_bias(
    a: AttentionArguments, bias: RelativeBias, grad_out: Tensor
) -> tuple[Tensor, Tensor]:
    tile = a.tile_of("bias_gradient")
    copies = GRADIENT_COPIES
    grad_position = torch.zeros(copies, bias.position.shape[0], device=a.q.device)
    grad_time = torch.zeros(copies, bias.time.shape[0], device=a.q.device)
    sequences = a.offsets.shape[0] - 1
    if a.q.shape[0] > 0 and a.times is not None and a.tables is not None:
        with on_device_of(a.q):
            hstu_attention_bias_gradient[(sequences * triton.cdiv(a.max_rows, tile.rows),)](
                a.q,
                a.k,
                a.v,
                grad_out,
                grad_position,
                grad_time,
                *a.layout,
                a.times.seconds,
                *a.tables,
                bias.boundaries,
                *a.strides,
                sequences,
                copies,
                a.num_positions,
                bias.time.shape[0],
                a.window or 0,
                a.alpha / 2,
                1 / a.norm_length,
                M=tile.rows,
                **a.constants,
                **tile.options,
            )
    return (
        grad_position.sum(0).to(bias.position.dtype),
        grad_time.sum(0).to(bias.time.dtype),
    )


def backward_part(kernel: str, a: AttentionArguments, grad_out: Tensor) -> None:
    """One kernel of the backward by its name, its result dropped: for tuning."""
    if kernel == "backward_q":
        _backward_q(a, grad_out, torch.empty_like(a.q))
    elif kernel == "backward_kv":
        _backward_kv(a, grad_out, torch.empty_like(a.k), torch.empty_like(a.v))
    elif kernel == "bias_gradient" and a.bias is not None:
        _backward_bias(a, a.bias, grad_out)
    else:
        raise ValueError(f"no kernel {kernel!r} with these arguments")


def tile_width(width: int) -> int:
    """Width of a tile for heads of a width: the next power of two from 16."""
    return max(16, int(triton.next_power_of_2(width)))


@cache
def _gpu(index: int) -> tuple[str, tuple[int, int]]:
    return torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)


def _fits_descriptor(x: Tensor) -> bool:
    """Whether the copy engine can read [R, H, D] as a matrix [R, H·D]."""
    width = x.shape[2]
    aligned = x.data_ptr() % 16 == 0 and x.stride(0) * x.element_size() % 16 == 0
    return aligned and x.stride(1) == width and width == tile_width(width)


def _descriptor(x: Tensor, tile_rows: int) -> TensorDescriptor:
    rows, heads, width = x.shape
    return TensorDescriptor(x, [rows, heads * width], [x.stride(0), 1], [tile_rows, width])
