"""A warp group's bias from memory into its scores' registers, and there: see `bias_tiles`.

Numbers are in half precision, two in a register, in the order of the scores.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float16, Float32, Int32

from genrec_kernels.cutlass.bias_tiles import EDGE, NUMBERS, TILE_VECTORS, VECTORS, WORDS
from genrec_kernels.cutlass.block_sizes import WARP_GROUP
from genrec_kernels.cutlass.ptx_arithmetic import pack_halves


@cute.jit
def first_vector(sequence: Int32, tiles: Int32, group_row: Int32, thread: Int32):
    """A thread's first vector of the first tile in a row of tiles.

    Args:
        tiles: of a sequence.
        group_row: the row of tiles begins with it.
    """
    edge = group_row // EDGE
    return (sequence * tiles + edge * (edge + 1) // 2) * TILE_VECTORS + thread


def bias_registers():
    """For a thread's numbers of a tile."""
    return cute.make_rmem_tensor(cute.make_layout(NUMBERS // 2), Int32)


@cute.jit
def load_bias(words: cute.Tensor, tiles: cute.Tensor, vector: Int32, first_key: Int32):
    """Ask for the tile of keys from `first_key`, a multiple of `EDGE`.

    Args:
        words: from `bias_registers`.
        tiles: int32 [.., WORDS].
        vector: from `first_vector`.
    """
    at = vector + first_key // EDGE * TILE_VECTORS
    for m in cutlass.range_constexpr(VECTORS):
        cute.autovec_copy(tiles[at + m * WARP_GROUP, None], _vector(words, m))


@cute.jit
def store_bias(scores: cute.Tensor, tiles: cute.Tensor, vector: Int32, first_key: Int32):
    """As `load_bias`, the other way: from float32 registers."""
    at = vector + first_key // EDGE * TILE_VECTORS
    words = bias_registers()
    for n in cutlass.range_constexpr(NUMBERS // 2):
        words[n] = pack_halves(scores[2 * n], scores[2 * n + 1])
    for m in cutlass.range_constexpr(VECTORS):
        cute.autovec_copy(_vector(words, m), tiles[at + m * WARP_GROUP, None])


@cute.jit
def fill_from_words(scores: cute.Tensor, words: cute.Tensor):
    """Write what was loaded into the scores, float32 registers."""
    halves = cute.recast_tensor(words, Float16)
    for n in cutlass.range_constexpr(NUMBERS):
        scores[n] = Float32(halves[n])


def _vector(words, m):
    return cute.make_tensor(words.iterator + WORDS * m, cute.make_layout(WORDS))
