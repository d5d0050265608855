"""x and W as TMA brings them into shared memory, and a warp group's product that reads them."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass.cute as cute
from cutlass import Float32
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as sm90

from genrec_kernels.cutlass.block_sizes import WARP_GROUP
from genrec_kernels.cutlass.linear_variants import GROUPS
from genrec_kernels.cutlass.variants import GROUP_ROWS


def linear_operands(variant, x, weight):
    """A block's operands.

    Args:
        variant: a `LinearVariant`.
        x, weight: in global memory, [R, K] and [N, K].

    Returns:
        `x` and `weight`, each with `copy`, the TMA copy; `tensor`, what it reads; `layout`, of its
        stages in shared memory; `sharers`, blocks that each bring a part for all of them.
        `num_bytes`, of one stage of both.
    """
    tile, dtype = variant.tile, x.element_type
    shape = (tile.block_rows, tile.columns, variant.depth)
    x_layout = sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, shape, dtype, tile.stages)
    w_layout = sm90.make_smem_layout_b(LayoutEnum.ROW_MAJOR, shape, dtype, tile.stages)
    row_bytes = variant.depth * dtype.width // 8
    return SimpleNamespace(
        x=_operand(x, x_layout, (tile.block_rows, variant.depth), 1),
        weight=_operand(weight, w_layout, (tile.columns, variant.depth), tile.cluster_rows),
        num_bytes=(tile.block_rows + tile.columns) * row_bytes,
    )


def _operand(tensor, layout, box, sharers):
    one = cpasync.CopyBulkTensorTileG2SOp()
    operation = cpasync.CopyBulkTensorTileG2SMulticastOp() if sharers > 1 else one
    stage = cute.slice_(layout, (None, None, 0))
    copy, read = cpasync.make_tiled_tma_atom(operation, tensor, stage, box, sharers)
    return SimpleNamespace(copy=copy, tensor=read, layout=layout, sharers=sharers)


def linear_fragments(variant, shared, warp_group):
    """A computing thread's operands.

    Args:
        variant: a `LinearVariant`.
        shared: has `x` and `weight`, stages in shared memory.
        warp_group: of the thread, from 0.

    Returns:
        `first_mma` and `next_mma`, products that write sums and that add to them; `rx` and `rw`,
        their operands; `sums_shape`.
    """
    tile = variant.tile
    first_mma, next_mma = (_product_of(variant, shared.x.element_type, x) for x in (False, True))
    # Operands in shared memory are descriptors that a whole warp group shares.
    group = first_mma.get_slice(warp_group * WARP_GROUP if tile.together else 0)
    return SimpleNamespace(
        first_mma=first_mma,
        next_mma=next_mma,
        rx=group.make_fragment_A(group.partition_A(shared.x)),
        rw=group.make_fragment_B(group.partition_B(shared.weight)),
        sums_shape=group.partition_shape_C((tile.block_rows, tile.columns)),
    )


def _product_of(variant, dtype, accumulate):
    tile = variant.tile
    mma = sm90.make_trivial_tiled_mma(
        dtype,
        dtype,
        OperandMajorMode.K,
        OperandMajorMode.K,
        Float32,
        (GROUPS if tile.together else 1, 1, 1),
        (GROUP_ROWS, tile.columns),
    )
    mma.set(warpgroup.Field.ACCUMULATE, accumulate)
    return mma
