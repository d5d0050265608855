"""A tile's weights in eight bits (e4m3), from its scores.

h is half a score times alpha. A weight is ``(h + h · tanh(h)) · WEIGHT_SCALE``, computed in half
precision as the scores are, two at a time, which is as good as float32 before eight bits.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from genrec_kernels.cutlass.ptx_arithmetic import (
    bytes_of_halves,
    halves,
    multiply_add_halves,
    multiply_halves,
    pack_halves,
    tanh_of_halves,
    word_of,
)
from genrec_kernels.fp8_layout import WEIGHT_SCALE


def pairs_of_weights(scores, half_alpha):
    """Weights of neighbouring columns, two in each of a list of Int16, in the order of scores."""
    words = cute.recast_tensor(scores, Int32)
    # No more than one, so that h stays in range: weights of scores beyond 14 are the greatest.
    half_alpha = cutlass.min(half_alpha, Float32(1.0))
    factor = pack_halves(half_alpha, half_alpha)
    return [_pair_of(multiply_halves(words[i], factor)) for i in range(cute.size(words))]


def put_weights(weights, pairs):
    """The pairs in the order in which the second product reads them.

    Four neighbouring places of a row are one register: two neighbouring columns of one 8, and two
    of the next (`fp8_layout`).
    """
    words = cute.recast_tensor(weights, Int32)
    for j in range(len(pairs) // 4):
        for i in range(2):
            words[2 * j + i] = word_of(pairs[4 * j + i], pairs[4 * j + i + 2])


def _pair_of(half):
    """Two weights from their h."""
    scale = halves(WEIGHT_SCALE)
    times = multiply_add_halves(tanh_of_halves(half), scale, scale)
    return bytes_of_halves(multiply_halves(half, times))
