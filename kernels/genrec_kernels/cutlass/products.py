"""Matrix products of warp groups (WGMMA), and their operands."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup
from cutlass.utils import hopper_helpers as sm90

from genrec_kernels.cutlass.variants import GROUP_ROWS


def scores_product_of(dtype, groups, columns, accumulate, sums_dtype):
    """Queries by keys, of all computing warp groups, of 64 rows each; keys in shared memory."""
    source = warpgroup.OperandSource.SMEM
    return _product_of(dtype, groups, columns, OperandMajorMode.K, source, accumulate, sums_dtype)


def values_product_of(dtype, groups, columns):
    """Weights by values, added to sums; the weights are in registers.

    Values of 16 bits lie as they are in memory, those of eight bits along the sum.
    """
    major = OperandMajorMode.K if dtype.width == 8 else OperandMajorMode.MN
    source = warpgroup.OperandSource.RMEM
    return _product_of(dtype, groups, columns, major, source, True, Float32)


def _product_of(dtype, groups, columns, b_major, source, accumulate, sums_dtype):
    mma = sm90.make_trivial_tiled_mma(
        dtype,
        dtype,
        OperandMajorMode.K,
        b_major,
        sums_dtype,
        (groups, 1, 1),
        (GROUP_ROWS, columns),
        source,
    )
    mma.set(warpgroup.Field.ACCUMULATE, accumulate)
    return mma


def weights_of(dtype, keys):
    """Registers of a tile's weights, in the order in which the second product reads them."""
    if dtype.width == 8:
        layout = cute.make_layout(((4, 2, 2), 1, keys // 32), stride=((1, 4, 8), 0, 16))
    else:
        layout = cute.make_layout(((2, 2, 2), 1, keys // 16), stride=((1, 2, 4), 0, 8))
    return cute.make_rmem_tensor(layout, dtype)


@cute.jit
def product(first_mma, next_mma, acc, a, b):
    """``acc = a · b``, queued."""
    for block in cutlass.range_constexpr(cute.size(a, mode=[2])):
        mma = first_mma if block == 0 else next_mma
        cute.gemm(mma, acc, a[None, None, block, 0], b[None, None, block], acc)


@cute.jit
def add_product(mma, acc, a, b):
    """``acc += a · b``, queued; `a` in registers."""
    for block in cutlass.range_constexpr(cute.size(a, mode=[2])):
        cute.gemm(mma, acc, a[None, None, block], b[None, None, block], acc)


@cute.jit
def round_into(weights, scores):
    """Scores in the operand's dtype of 16 bits, whose order is theirs (PTX ISA, "wgmma: register
    fragments"); of eight bits: `byte_weights`."""
    as_scores = cute.make_tensor(weights.iterator, scores.layout)
    as_scores.store(scores.load().to(weights.element_type))


def stage(operand, place):
    """An operand's tile in a place of its ring."""
    return operand[None, None, None, place.index]
