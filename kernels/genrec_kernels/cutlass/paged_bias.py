"""Bias of new rows over a paged history, made before (`genrec_kernels.paged_bias`), read here into
the scores' registers before the product adds to them.

A thread holds the scores of two rows, 8 apart; register ``c + 2·i + 4·j`` is row i, column
``8·j + c`` from the thread's first (PTX ISA, "wgmma: accumulator fragments").
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32


@cute.jit
def fill_from_rows(
    scores: cute.Tensor,
    bias: cute.Tensor,
    bias_rows: cute.Tensor,
    first: Int32,
    keys: cutlass.Constexpr[int],
):
    """Each row has a bias of its own.

    Args:
        scores: float32 registers, `keys` / 2 of them.
        bias: float32 [N, K] in global memory.
        bias_rows: int32 [2], the rows in it of the thread's two.
        first: the thread's first key, an even number.
    """
    for i in cutlass.range_constexpr(2):
        line = bias[cutlass.Int64(bias_rows[i]), None]
        for j in cutlass.range_constexpr(keys // 8):
            pair = cute.make_rmem_tensor(cute.make_layout(2), Float32)
            cute.autovec_copy(cute.local_tile(line, (2,), (first // 2 + 4 * j,)), pair)
            scores[2 * i + 4 * j] = pair[0]
            scores[1 + 2 * i + 4 * j] = pair[1]


@cute.jit
def fill_from_tile(
    scores: cute.Tensor,
    tile: cute.Tensor,
    stage: Int32,
    column: Int32,
    keys: cutlass.Constexpr[int],
):
    """All rows have one bias, which came with the keys.

    Args:
        tile: float32 [keys, stages] in shared memory.
        column: the thread's first, an even number.
    """
    line = tile[None, stage]
    for j in cutlass.range_constexpr(keys // 8):
        pair = cute.make_rmem_tensor(cute.make_layout(2), Float32)
        cute.autovec_copy(cute.local_tile(line, (2,), (column // 2 + 4 * j,)), pair)
        for i in cutlass.range_constexpr(2):
            scores[2 * i + 4 * j] = pair[0]
            scores[1 + 2 * i + 4 * j] = pair[1]
