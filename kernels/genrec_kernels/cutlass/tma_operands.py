"""Queries, keys and values as TMA brings them into shared memory and WGMMA reads them there."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass.cute as cute
from cutlass.cute.nvgpu import cpasync
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as sm90


def tma_operands(variant, q, k, v):
    """A block's operands.

    Args:
        variant: an `AttentionVariant`.
        q, k, v: in global memory, rows and columns of a tile first: [rows, D, ..], [keys, D, ..]
            and [D, keys, ..].

    Returns:
        `q`, `k` and `v`, each with `copy`, the TMA copy; `tensor`, what it reads; `layout`, of its
        tiles in shared memory; `num_bytes`, of one tile.
    """
    dtype, width = q.element_type, variant.width
    rows, keys, stages = variant.rows, variant.keys, variant.stages
    values_major = LayoutEnum.ROW_MAJOR if variant.fp8 else LayoutEnum.COL_MAJOR
    return SimpleNamespace(
        q=_operand(
            q,
            sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, (rows, keys, width), dtype, 1),
            (rows, width),
        ),
        k=_operand(
            k,
            sm90.make_smem_layout_b(LayoutEnum.ROW_MAJOR, (rows, keys, width), dtype, stages),
            (keys, width),
        ),
        v=_operand(
            v,
            sm90.make_smem_layout_b(values_major, (rows, width, keys), dtype, stages),
            (width, keys),
        ),
    )


def _operand(tensor, layout, box):
    one = cute.slice_(layout, (None, None, 0))
    copy, read = cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), tensor, one, box)
    num_bytes = cute.size_in_bytes(tensor.element_type, one)
    return SimpleNamespace(copy=copy, tensor=read, layout=layout, num_bytes=num_bytes)
