"""What is done to a thread's scores, and to value rows that nobody may see.

A thread holds the scores of two rows, 8 apart; register ``c + 2·i + 4·j`` is row i, column
``8·j + c`` from the thread's first (PTX ISA, "wgmma: accumulator fragments").
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, const_expr

from genrec_kernels.cutlass.block_sizes import WARP_GROUP

#: Elements of 16 bits that one store of 16 bytes clears.
_CHUNK = 8


def weight_of(score, half_alpha):
    """``silu(alpha · s)``: ``silu(2h) = h + h · tanh(h)``, one special instruction."""
    return silu_of_half(score * half_alpha)


def silu_of_half(half):
    """``silu(2h)``."""
    return half + half * cute.math.tanh(half, fastmath=True)


@cute.jit
def silu(scores: cute.Tensor, half_alpha: Float32):
    """``silu(alpha · s)`` in place."""
    for i in cutlass.range_constexpr(cute.size(scores)):
        scores[i] = weight_of(scores[i], half_alpha)


@cute.jit
def hide_unseen(
    scores: cute.Tensor,
    row_limits: cute.Tensor,
    row: Int32,
    first_key: Int32,
    window: Int32,
    has_window: cutlass.Constexpr[bool],
    sees_itself: cutlass.Constexpr[bool],
):
    """Make scores 0, as their weights then are, where a row does not see the key.

    Args:
        row_limits: int32 [2], keys that the thread's rows see.
        row: its first row.
        first_key: the key of its first column.
        sees_itself: a row also sees the key of its own number.
    """
    halves = const_expr(scores.element_type.width == 16)
    words = cute.recast_tensor(scores, Int32) if halves else scores
    for i in cutlass.range_constexpr(2):
        bound = row_limits[i] - first_key
        own = row + 8 * i - first_key
        for j in cutlass.range_constexpr(cute.size(scores) // 4):
            kept = Int32(0)
            for c in cutlass.range_constexpr(2):
                seen = 8 * j + c < bound
                if const_expr(has_window):
                    seen = seen and 8 * j + c >= bound - window
                if const_expr(sees_itself):
                    seen = seen or 8 * j + c == own
                if const_expr(halves):
                    if seen:
                        kept = kept | Int32(0xFFFF << 16 * c)
                else:
                    at = c + 2 * i + 4 * j
                    score = scores[at]
                    if not seen:
                        score = Float32(0.0)
                    scores[at] = score
            if const_expr(halves):
                words[i + 2 * j] = words[i + 2 * j] & kept


@cute.jit
def zero_rows(
    sv: cute.Tensor,
    stage: Int32,
    first: Int32,
    width: cutlass.Constexpr[int],
    keys: cutlass.Constexpr[int],
    thread: Int32,
):
    """Zero rows [first, keys) of a tile of values [width, keys, stages], by one warp group."""
    zeros = cute.make_rmem_tensor(cute.make_layout(_CHUNK), sv.element_type)
    zeros.fill(0.0)
    chunks = width // _CHUNK
    for i in cutlass.range(thread + cutlass.max(first, 0) * chunks, keys * chunks, WARP_GROUP):
        chunk = cute.local_tile(sv, (_CHUNK, 1, 1), (i % chunks, i // chunks, stage))
        cute.autovec_copy(zeros, cute.make_tensor(chunk.iterator, cute.make_layout(_CHUNK)))
