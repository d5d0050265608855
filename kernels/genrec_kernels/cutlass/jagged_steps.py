"""The steps of a warp group over a sequence's keys, from the last tile to the first."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import const_expr

from genrec_kernels.cutlass.bias_vectors import load_bias
from genrec_kernels.cutlass.key_tiles import tile_at
from genrec_kernels.cutlass.steps import first_step, last_step, next_step


@cute.jit
def run_steps(tile, k_get, v_get, unseen, masked_end, full_end, steps, own_begin, own_end, end):
    """From step `unseen`, at least one.

    Args:
        tile: see `compute_tiles`.
        k_get, v_get: which tiles of keys and values come next.
        masked_end, full_end: steps between them need no mask.
        steps, own_begin, own_end, end: see `key_tiles.tile_at`.
    """
    variant = tile.variant
    # The first tile that is seen holds the last row, so it needs a mask.
    first_key = _key_at(tile, unseen, own_begin, own_end, end)
    if const_expr(variant.bias):
        load_bias(tile.bias_words, tile.bias_tiles, tile.bias_vector, first_key)
    following = _key_after(tile, unseen, steps, own_begin, own_end, end)
    k_get = first_step(tile, k_get, first_key, following)
    previous = first_key
    for step in cutlass.range(unseen + 1, masked_end, unroll=1):
        first_key = _key_at(tile, step, own_begin, own_end, end)
        following = _key_after(tile, step, steps, own_begin, own_end, end)
        k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, True, following)
        previous = first_key
    for step in cutlass.range(masked_end, full_end, unroll=1):
        first_key = _key_at(tile, step, own_begin, own_end, end)
        following = _key_after(tile, step, steps, own_begin, own_end, end)
        k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, False, following)
        previous = first_key
    if const_expr(variant.window):
        for step in cutlass.range(full_end, steps, unroll=1):
            first_key = _key_at(tile, step, own_begin, own_end, end)
            following = _key_after(tile, step, steps, own_begin, own_end, end)
            k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, True, following)
            previous = first_key
    return k_get, last_step(tile, v_get, previous)


def _key_at(tile, step, own_begin, own_end, end):
    """The first key of a step's tile."""
    return tile.variant.keys * tile_at(step, own_begin, own_end, end)


def _key_after(tile, step, steps, own_begin, own_end, end):
    """Of the step after, whose bias is asked for; after the last, of that one itself."""
    if const_expr(tile.variant.bias):
        return _key_at(tile, cutlass.min(step + 1, steps - 1), own_begin, own_end, end)
    return None
