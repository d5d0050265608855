"""A matrix product whose epilogue adds the bias and applies SiLU, in Triton.

Without it the product's result is written, read, and written again. As many programs as there are
multiprocessors stay for the whole product, so that one tile's epilogue runs while the next one's
first copies are under way.

Letters in shapes: R rows, N columns, K width of a step.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from genrec_kernels.dispatch import interpreting
from genrec_kernels.triton.hstu_tile import dot, silu_of_half

#: Row tiles that run side by side for each column tile: they share both through the L2 cache.
_GROUP = 8


@dataclass(frozen=True)
class ProductTile:
    """Tile of one program, and how Triton runs it."""

    rows: int
    columns: int
    width: int
    warps: int
    stages: int


@triton.jit(do_not_specialize=["num_rows", "num_programs"])
def _linear_silu(
    x_tiles, w_tiles, bias_ptr, out_tiles, num_rows, num_columns, width, num_programs, group,
    R: tl.constexpr, N: tl.constexpr, K: tl.constexpr, FAST: tl.constexpr,
    INTERPRETED: tl.constexpr,
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
        half_RN = 0.5 * (acc_RN + bias_N.to(tl.float32)[None, :])
        out_tiles.store([row, column], silu_of_half(half_RN, FAST).to(bias_ptr.dtype.element_ty))


def choose_tile(rows: int, columns: int, multiprocessors: int) -> ProductTile:
    """The largest tile of which there are enough to fill the GPU."""
    for tile in (
        ProductTile(128, 256, 64, 8, 3),
        ProductTile(128, 128, 64, 8, 4),
        ProductTile(64, 128, 64, 4, 4),
    ):
        if triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns) >= multiprocessors:
            return tile
    return ProductTile(64, 64, 64, 4, 4)


def linear_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, tile: ProductTile | None = None
) -> Tensor:
    """float [R, K], [N, K] and [N], all contiguous, to [R, N]; R at least 1.

    `tile` goes before the choice, for tuning.
    """
    (rows, width), columns = x.shape, weight.shape[0]
    interpreted = interpreting()
    processors = 4 if interpreted else _multiprocessors(x.device)
    if tile is None:
        tile = (
            ProductTile(16, 32, 16, 4, 1) if interpreted else choose_tile(rows, columns, processors)
        )
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    tiles = triton.cdiv(rows, tile.rows) * triton.cdiv(columns, tile.columns)
    programs = min(processors, tiles)
    _linear_silu[(programs,)](
        TensorDescriptor(x, [rows, width], [width, 1], [tile.rows, tile.width]),
        TensorDescriptor(weight, [columns, width], [width, 1], [tile.columns, tile.width]),
        bias,
        TensorDescriptor(out, [rows, columns], [columns, 1], [tile.rows, tile.columns]),
        rows, columns, width, programs, _GROUP,
        R=tile.rows, N=tile.columns, K=tile.width, FAST=not interpreted, INTERPRETED=interpreted,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


@cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
