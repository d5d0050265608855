"""The bias of a score in paged attention.

Letters in shapes: T query rows of a tile (1 where all rows share a bias), L keys of a tile.
"""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl

from genrec_kernels.relative_bias import LOG_BUCKET_WIDTH
from genrec_kernels.triton.load_apart import load_apart

# ln 2 / 0.301: buckets per doubling of the time difference.
_BUCKETS_PER_OCTAVE = tl.constexpr(0.6931471805599453 / LOG_BUCKET_WIDTH)
# Far more than the error of log2 times the number of buckets, far less than a bucket.
_GUESS_MARGIN = tl.constexpr(1e-3)


@triton.jit
def half_bias(
    distance_TL, seconds_TL, position_ptr, time_ptr, bound_ptr, num_positions, num_buckets,
    ASM: tl.constexpr,
):  # fmt: skip
    """Half of ``position[distance] + time[bucket(|seconds|)]``, float32, as `RelativeBias` has it.

    The bucket is exact: the logarithm's guess is lowered so that it is the bucket or the one
    below, and one integer comparison decides. Differences may be int64, or int32 if they and all
    finite boundaries are below 2^31: then the low words of the boundaries are compared.
    """
    nearest_TL = tl.minimum(tl.maximum(distance_TL, 0), num_positions - 1)
    position_TL = load_apart(position_ptr + nearest_TL, ASM).to(tl.float32)
    seconds_TL = tl.abs(seconds_TL)
    octaves_TL = tl.log2(tl.maximum(seconds_TL, 1).to(tl.float32))
    guess_TL = (octaves_TL * _BUCKETS_PER_OCTAVE - _GUESS_MARGIN).to(tl.int32)
    guess_TL = tl.minimum(tl.maximum(guess_TL, 0), num_buckets - 1)
    if seconds_TL.dtype == tl.int64:
        bound_TL = load_apart(bound_ptr + guess_TL + 1, ASM)
    else:
        bound_TL = load_apart(bound_ptr.to(tl.pointer_type(tl.int32)) + 2 * guess_TL + 2, ASM)
    above_TL = (seconds_TL >= bound_TL) & (guess_TL < num_buckets - 1)
    time_TL = load_apart(time_ptr + guess_TL + above_TL.to(tl.int32), ASM).to(tl.float32)
    return 0.5 * (position_TL + time_TL)
