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
    dtype, rows, keys, width = q.element_type, variant.rows, variant.keys, variant.width
    values_major = LayoutEnum.ROW_MAJOR if variant.fp8 else LayoutEnum.COL_MAJOR
    # Rows of one copy: a tile is filled by several where pages hold less.
    part = variant.page_keys if variant.paged else keys

    def k_layout(keys, stages):
        return sm90.make_smem_layout_b(LayoutEnum.ROW_MAJOR, (rows, keys, width), dtype, stages)

    def v_layout(keys, stages):
        if not variant.fp8:
            return sm90.make_smem_layout_b(values_major, (rows, width, keys), dtype, stages)
        # A copy's rows lie along the keys, and the swizzle is as wide as they are, so that a tile
        # of several copies is as many swizzled parts.
        copied = sm90.make_smem_layout_b(values_major, (rows, width, part), dtype, 1)
        return cute.tile_to_shape(_one(copied), (width, keys, stages), order=(0, 1, 2))

    q_layout = sm90.make_smem_layout_a(LayoutEnum.ROW_MAJOR, (rows, keys, width), dtype, 1)
    return SimpleNamespace(
        q=_operand(q, q_layout, q_layout, (rows, width)),
        k=_operand(k, k_layout(keys, variant.stages), k_layout(part, 1), (part, width)),
        v=_operand(v, v_layout(keys, variant.stages), v_layout(part, 1), (width, part)),
    )


def _operand(tensor, layout, part_layout, part):
    operation = cpasync.CopyBulkTensorTileG2SOp()
    copy, read = cpasync.make_tiled_tma_atom(operation, tensor, _one(part_layout), part)
    num_bytes = cute.size_in_bytes(tensor.element_type, _one(layout))
    return SimpleNamespace(copy=copy, tensor=read, layout=layout, num_bytes=num_bytes)


def _one(layout):
    """Of one stage."""
    return cute.slice_(layout, (None, None, 0))
