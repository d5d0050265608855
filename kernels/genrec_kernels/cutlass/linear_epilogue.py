"""What follows the product of a linear layer, and the way of its numbers to and from memory.

A thread holds sums of rows 8 apart, two neighbouring columns of each eight (PTX ISA, "wgmma:
accumulator fragments"): register ``c + 2·i + 4·j`` of 64 rows is row ``8·i``, column ``8·j + c``
from its first. Memory is read and written 16 bytes at a time, eight columns of a row. Between the
two, the four lanes that have a row exchange words, 32 columns at a time.
"""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from genrec_kernels.cutlass.block_sizes import WARP
from genrec_kernels.cutlass.exchange import CHUNK, LANES, exchange
from genrec_kernels.cutlass.linear_columns import factor_of
from genrec_kernels.cutlass.linear_variants import GROUPS, PASS_COLUMNS
from genrec_kernels.cutlass.scores import silu_of_half
from genrec_kernels.cutlass.variants import GROUP_ROWS


def lane_place(variant, warp_group, thread, row_tile):
    """Where a thread's sums are.

    Returns:
        `row`, its first; `spacing`, from 64 rows of the warp group to the next; `quarter`, the
        lane's place among those that have a row.
    """
    tile = variant.tile
    row = row_tile * tile.block_rows + thread // WARP * 16 + thread % WARP // LANES
    spacing = GROUP_ROWS
    if tile.together:
        row += warp_group * GROUP_ROWS
        spacing *= GROUPS
    return SimpleNamespace(row=row, spacing=spacing, quarter=thread % LANES)


@cute.jit
def load_residual(variant: cutlass.Constexpr, tensors, place, first_column):
    """The residual of a thread's chunks, before the product, so that it has come after it.

    Returns:
        int32 [4, passes, 2, 64 rows], as in memory; None if nothing is added.
    """
    residual = None
    if const_expr(variant.adds):
        tile = variant.tile
        shape = (LANES, tile.columns // PASS_COLUMNS, 2, tile.rows // GROUP_ROWS)
        residual = cute.make_rmem_tensor(cute.make_layout(shape), Int32)
        last_row = Int32(tensors.out.shape[0]) - 1
        last_column = Int32(tensors.out.shape[1]) - CHUNK
        for m in cutlass.range_constexpr(shape[3]):
            for i in cutlass.range_constexpr(2):
                # What is beyond the output is not stored: any number will do.
                row = cutlass.min(place.row + place.spacing * m + 8 * i, last_row)
                for step in cutlass.range_constexpr(shape[1]):
                    column = first_column + PASS_COLUMNS * step + CHUNK * place.quarter
                    chunk = _chunk(tensors.residual, row, cutlass.min(column, last_column))
                    cute.autovec_copy(chunk, residual[None, step, i, m])
    return residual


@cute.jit
def finish(variant: cutlass.Constexpr, sums, residual, columns, tensors, place, first_column):
    """Scale, add the bias, apply SiLU or add the residual, round and write.

    Args:
        variant: a `LinearVariant`.
        sums: float32, the product.
        residual: as `load_residual` has it.
        columns: as `linear_columns.keep_columns` has them.
        tensors: has `out` and, with fp8, `x_scale`.
        place: of the thread, see `lane_place`.
        first_column: of the tile.
    """
    tile = variant.tile
    num_rows, num_columns = Int32(tensors.out.shape[0]), Int32(tensors.out.shape[1])
    for step in cutlass.range_constexpr(tile.columns // PASS_COLUMNS):
        biases = _of_columns(columns[None, 0], step, place.quarter)
        scales = None
        if const_expr(variant.fp8):
            scales = _of_columns(columns[None, 1], step, place.quarter)
        column = first_column + PASS_COLUMNS * step + CHUNK * place.quarter
        for m in cutlass.range_constexpr(tile.rows // GROUP_ROWS):
            for i in cutlass.range_constexpr(2):
                row = place.row + place.spacing * m + 8 * i
                factor = Float32(factor_of(variant))
                if const_expr(variant.fp8):
                    factor = tensors.x_scale[cutlass.min(row, num_rows - 1)]
                added = None
                if const_expr(variant.adds):
                    words = cute.make_rmem_tensor(cute.make_layout(LANES), Int32)
                    words.store(residual[None, step, i, m].load())
                    exchange(words, place.quarter)
                    added = _widened(words, tensors.out.element_type)
                first = 2 * i + 4 * LANES * step + tile.columns // 2 * m
                words = _rounded(variant, sums, first, factor, scales, biases, added, tensors)
                exchange(words, place.quarter)
                if row < num_rows and column < num_columns:
                    cute.autovec_copy(words, _chunk(tensors.out, row, column))


def _chunk(tensor, row, column):
    """Eight columns of a row, from a multiple of eight, as int32 [4]."""
    place = cute.assume(Int64(row) * tensor.stride[0] + column, divby=CHUNK)
    words = cute.recast_ptr(tensor.iterator + place, dtype=Int32)
    return cute.make_tensor(words, cute.make_layout(LANES))


def _of_columns(kept, step, quarter):
    """Of a thread's eight columns in a pass, float32 [2, 4]."""
    found = cute.make_rmem_tensor(cute.make_layout((2, LANES)), Float32)
    for j in range(LANES):
        pair = cute.local_tile(kept, (2,), (PASS_COLUMNS // 2 * step + CHUNK // 2 * j + quarter,))
        cute.autovec_copy(pair, found[None, j])
    return found


def _widened(words, dtype):
    """float32 [8] of four words."""
    wide = cute.make_rmem_tensor(cute.make_layout(2 * LANES), Float32)
    wide.store(cute.recast_tensor(words, dtype).load().to(Float32))
    return wide


def _rounded(variant, sums, first, factor, scales, biases, added, tensors):
    """A thread's eight numbers of a row in a pass, from sum `first` on, as four words."""
    numbers = cute.make_rmem_tensor(cute.make_layout(2 * LANES), Float32)
    for j in range(LANES):
        for c in range(2):
            number = sums[first + 4 * j + c] * factor
            if variant.fp8:
                number = number * scales[c, j]
            number = number + biases[c, j]
            here = 2 * j + c
            numbers[here] = number + added[here] if variant.adds else silu_of_half(number)
    dtype = tensors.out.element_type
    rounded = cute.make_rmem_tensor(numbers.layout, dtype)
    rounded.store(numbers.load().to(dtype))
    return cute.recast_tensor(rounded, Int32)
