"""A matrix product whose epilogue adds the bias, then applies SiLU or adds a residual, in Triton.

Without it the product's result is written, read, and written again. As many programs as the
multiprocessors hold stay for the whole product, so that one tile's epilogue runs while the next
one's first copies are under way. Operands may be float8 (e4m3), with a scale for each row of both.

Letters in shapes: R rows, N columns, K width of a step.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from genrec_kernels.dispatch import interpreting
from genrec_kernels.narrow_rows import NarrowRows
from genrec_kernels.triton.hstu_tile import dot, silu_of_half

#: Row tiles that run side by side for each column tile: they share both through the L2 cache.
_GROUP = 8


@dataclass(frozen=True)
class ProductTile:
    """Tile of one program, and how Triton runs it.

    rows, columns, width: R, N and K.
    warps, stages: as Triton means them.
    resident: programs that a multiprocessor holds at once.
    time: of so many, as a share of what the first of `_TILES` takes.
    """

    rows: int
    columns: int
    width: int
    warps: int
    stages: int
    resident: int = 1
    time: float = 1.0

    def shared_memory(self, element_bytes: int) -> int:
        """Bytes that one program takes at most; what comes out has numbers of two bytes."""
        operands = self.stages * (self.rows + self.columns) * self.width * element_bytes
        barriers = 2048  # and the like
        return operands + 2 * self.rows * self.columns + barriers


#: Measured on an H200 with 40 to 8,192 rows, 1,024 wide, on 1,024 and 4,096 columns.
_TILES = (
    ProductTile(128, 256, 64, 8, 3),
    ProductTile(128, 128, 64, 8, 4, time=0.55),
    ProductTile(64, 64, 64, 4, 4, resident=3, time=0.5),
    ProductTile(64, 64, 128, 4, 3, resident=2, time=0.35),
    ProductTile(64, 32, 128, 4, 4, resident=2, time=0.28),
)
#: Of operands in eight bits, with 384 to 8,192 rows.
_FP8_TILES = (
    ProductTile(128, 256, 128, 8, 3),
    ProductTile(64, 128, 128, 4, 4, resident=2, time=0.52),
    ProductTile(64, 64, 128, 4, 4, resident=3, time=0.5),
    ProductTile(64, 64, 256, 4, 3, resident=2, time=0.36),
)


@triton.jit(do_not_specialize=["num_rows", "num_programs"])
def _linear(
    x_tiles, w_tiles, x_scale_ptr, w_scale_ptr, bias_ptr, residual_tiles, out_tiles,
    num_rows, num_columns, width, num_programs, group,
    R: tl.constexpr, N: tl.constexpr, K: tl.constexpr, SCALED: tl.constexpr, SILU: tl.constexpr,
    FAST: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    row_tiles, column_tiles = tl.cdiv(num_rows, R), tl.cdiv(num_columns, N)
    zero_RN = tl.zeros([R, N], tl.float32)
    for tile in tl.range(tl.program_id(0), row_tiles * column_tiles, num_programs, flatten=True):
        per_group = group * column_tiles
        first = tile // per_group * group
        size = tl.minimum(row_tiles - first, group)
        row = (first + tile % per_group % size) * R
        column = tile % per_group // size * N
        acc_RN = zero_RN
        for k in range(0, width, K):
            x_RK = x_tiles.load([row, k])
            w_NK = w_tiles.load([column, k])
            acc_RN = dot(x_RK, tl.trans(w_NK), acc_RN, INTERPRETED)
        column_N = column + tl.arange(0, N)
        bias_N = tl.load(bias_ptr + column_N, mask=column_N < num_columns, other=0.0)
        if SCALED:
            row_R = row + tl.arange(0, R)
            x_scale_R = tl.load(x_scale_ptr + row_R, mask=row_R < num_rows, other=0.0)
            w_scale_N = tl.load(w_scale_ptr + column_N, mask=column_N < num_columns, other=0.0)
            acc_RN = acc_RN * x_scale_R[:, None] * w_scale_N[None, :]
        out_RN = acc_RN + bias_N.to(tl.float32)[None, :]
        if SILU:
            out_RN = silu_of_half(0.5 * out_RN, FAST)
            out_tiles.store([row, column], out_RN.to(bias_ptr.dtype.element_ty))
        else:  # by halves of the columns: else shared memory would not hold the residual, too
            HALF: tl.constexpr = N // 2
            left_RH, right_RH = tl.split(out_RN.reshape(R, 2, HALF).permute(0, 2, 1))
            _add_and_store(left_RH, residual_tiles, out_tiles, row, column)
            _add_and_store(right_RH, residual_tiles, out_tiles, row, column + HALF)


@triton.jit
def _add_and_store(x_RH, residual_tiles, out_tiles, row, column):
    residual_RH = residual_tiles.load([row, column])
    out_tiles.store([row, column], (x_RH + residual_RH.to(tl.float32)).to(residual_RH.dtype))


def choose_tile(
    rows: int, columns: int, multiprocessors: int, shared_memory: int, *, element_bytes: int = 2
) -> ProductTile:
    """The tile with which a product is done soonest: rounds of programs times what one takes.

    Args:
        rows, columns: of the product.
        multiprocessors: of the GPU.
        shared_memory: bytes of it that one program may have.
        element_bytes: of both operands, 1 or 2.
    """

    def time(tile: ProductTile) -> float:
        tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
        rounds: int = triton.cdiv(tiles, multiprocessors * tile.resident)
        return tile.time * rounds

    tiles = _FP8_TILES if element_bytes == 1 else _TILES
    return min((t for t in tiles if t.shared_memory(element_bytes) <= shared_memory), key=time)


def linear_silu(
    x: Tensor | NarrowRows,
    weight: Tensor | NarrowRows,
    bias: Tensor,
    *,
    tile: ProductTile | None = None,
) -> Tensor:
    """float [R, K], [N, K] and [N], all contiguous, to [R, N]; R at least 1.

    `tile` goes before the choice, for tuning.
    """
    return _launch(x, weight, bias, None, tile)


def linear_add(
    x: Tensor | NarrowRows,
    weight: Tensor | NarrowRows,
    bias: Tensor,
    residual: Tensor,
    *,
    tile: ProductTile | None = None,
) -> Tensor:
    """As `linear_silu`, with a residual [R, N] in place of SiLU."""
    return _launch(x, weight, bias, residual, tile)


def _launch(
    x: Tensor | NarrowRows,
    weight: Tensor | NarrowRows,
    bias: Tensor,
    residual: Tensor | None,
    tile: ProductTile | None,
) -> Tensor:
    x_numbers, x_scales = x if isinstance(x, NarrowRows) else (x, bias)
    w_numbers, w_scales = weight if isinstance(weight, NarrowRows) else (weight, bias)
    (rows, width), columns = x_numbers.shape, w_numbers.shape[0]
    interpreted = interpreting()
    processors, shared_memory = (4, 0) if interpreted else _gpu(bias.device)
    if tile is None and interpreted:
        tile = ProductTile(16, 32, 32, 4, 1)
    elif tile is None:
        tile = choose_tile(
            rows, columns, processors, shared_memory, element_bytes=x_numbers.element_size()
        )
    out = torch.empty((rows, columns), dtype=bias.dtype, device=bias.device)
    written = [tile.rows, tile.columns if residual is None else tile.columns // 2]
    out_tiles, residual_tiles = (
        TensorDescriptor(t, [rows, columns], [columns, 1], written)
        for t in (out, out if residual is None else residual)
    )
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    programs = min(processors * tile.resident, tiles)
    _linear[(programs,)](
        TensorDescriptor(x_numbers, [rows, width], [width, 1], [tile.rows, tile.width]),
        TensorDescriptor(w_numbers, [columns, width], [width, 1], [tile.columns, tile.width]),
        x_scales, w_scales, bias, residual_tiles, out_tiles,
        rows, columns, width, programs, _GROUP,
        R=tile.rows, N=tile.columns, K=tile.width, SCALED=isinstance(x, NarrowRows),
        SILU=residual is None, FAST=not interpreted, INTERPRETED=interpreted,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


@cache
def _gpu(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and bytes of shared memory that a program may have."""
    properties: Any = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.shared_memory_per_block_optin
