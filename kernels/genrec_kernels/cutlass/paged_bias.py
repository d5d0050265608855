"""Bias of new rows over a paged history, made before (`genrec_kernels.paged_bias`), read here into
the scores' registers before the product adds to them. It has the scores' type.

A thread holds the scores of two rows, 8 apart; number ``c + 2·i + 4·j`` is row i, column
``8·j + c`` from the thread's first (PTX ISA, "wgmma: accumulator fragments"). A pair of columns is
one register in half precision, and two in float32.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32


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
        scores: registers, of `keys` / 2 numbers.
        bias: [N, K] in global memory.
        bias_rows: int32 [2], the rows in it of the thread's two.
        first: the thread's first key, an even number.
    """
    for i in cutlass.range_constexpr(2):
        line = bias[cutlass.Int64(bias_rows[i]), None]
        for j in cutlass.range_constexpr(keys // 8):
            _put_pair(scores, _pair_at(line, first // 2 + 4 * j), i + 2 * j)


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
        tile: [keys, stages] in shared memory.
        column: the thread's first, an even number.
    """
    for j in cutlass.range_constexpr(keys // 8):
        pair = _pair_at(tile[None, stage], column // 2 + 4 * j)
        for i in cutlass.range_constexpr(2):
            _put_pair(scores, pair, i + 2 * j)


def _pair_at(line, place):
    """Registers of the pair there."""
    pair = cute.make_rmem_tensor(cute.make_layout(2), line.element_type)
    cute.autovec_copy(cute.local_tile(line, (2,), (place,)), pair)
    return cute.recast_tensor(pair, Int32)


def _put_pair(scores, pair, number):
    words = cute.recast_tensor(scores, Int32)
    for c in range(cute.size(pair)):
        words[c + cute.size(pair) * number] = pair[c]
