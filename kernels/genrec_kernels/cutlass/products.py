"""Matrix products of warp groups (WGMMA), and their operands."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup
from cutlass.utils import hopper_helpers as sm90

from genrec_kernels.cutlass.variants import GROUP_ROWS


def product_of(dtype, groups, columns, b_major, accumulate):
    """A product of all computing warp groups, of 64 rows each.

    The one whose operand B lies along the sum is of scores; in the other A is in registers.
    """
    first = b_major == OperandMajorMode.K
    source = warpgroup.OperandSource
    mma = sm90.make_trivial_tiled_mma(
        dtype,
        dtype,
        OperandMajorMode.K,
        b_major,
        Float32,
        (groups, 1, 1),
        (GROUP_ROWS, columns),
        source.SMEM if first else source.RMEM,
    )
    mma.set(warpgroup.Field.ACCUMULATE, accumulate)
    return mma


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
    """Scores in the operand's dtype and order."""
    as_scores = cute.make_tensor(weights.iterator, scores.layout)
    as_scores.store(scores.load().to(weights.element_type))


def stage(operand, place):
    """An operand's tile in a place of its ring."""
    return operand[None, None, None, place.index]
