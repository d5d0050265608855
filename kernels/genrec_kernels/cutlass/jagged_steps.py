"""The steps of a warp group over a sequence's keys, from the last tile to the first."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import const_expr

from genrec_kernels.cutlass.bias_vectors import load_bias
from genrec_kernels.cutlass.key_tiles import tile_at
from genrec_kernels.cutlass.steps import first_step, last_step, next_step
from genrec_kernels.cutlass.steps_ahead import (
    keep_scores,
    step_ahead,
    step_without_more,
    weigh_kept,
)


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
    first_key = _key_at(tile, unseen, steps, own_begin, own_end, end)
    if const_expr(variant.bias):
        load_bias(tile.bias_words, tile.bias_tiles, tile.bias_vector, first_key)
    following = _key_at(tile, unseen + 1, steps, own_begin, own_end, end)
    k_get = first_step(tile, k_get, first_key, following)
    previous = first_key
    for step in cutlass.range(unseen + 1, masked_end, unroll=1):
        first_key = _key_at(tile, step, steps, own_begin, own_end, end)
        following = _key_at(tile, step + 1, steps, own_begin, own_end, end)
        k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, True, following)
        previous = first_key
    for step in cutlass.range(masked_end, full_end, unroll=1):
        first_key = _key_at(tile, step, steps, own_begin, own_end, end)
        following = _key_at(tile, step + 1, steps, own_begin, own_end, end)
        k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, False, following)
        previous = first_key
    if const_expr(variant.window):
        for step in cutlass.range(full_end, steps, unroll=1):
            first_key = _key_at(tile, step, steps, own_begin, own_end, end)
            following = _key_at(tile, step + 1, steps, own_begin, own_end, end)
            k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, True, following)
            previous = first_key
    return k_get, last_step(tile, v_get, previous)


@cute.jit
def run_ahead(tile, k_get, v_get, unseen, masked_end, _, steps, own_begin, own_end, end):
    """As `run_steps`, with each tile's scores made a step ahead; not of windows."""
    previous = _key_at(tile, unseen, steps, own_begin, own_end, end)
    k_get = keep_scores(tile, k_get, previous)
    weigh_kept(tile, previous)
    if unseen + 1 < steps:
        first_key = _key_at(tile, unseen + 1, steps, own_begin, own_end, end)
        k_get = keep_scores(tile, k_get, first_key)
        # The last step has none to follow it.
        for step in cutlass.range(unseen + 1, cutlass.min(masked_end, steps - 1), unroll=1):
            following = _key_at(tile, step + 1, steps, own_begin, own_end, end)
            k_get, v_get = step_ahead(tile, k_get, v_get, following, first_key, previous, True)
            previous = first_key
            first_key = following
        for step in cutlass.range(cutlass.max(unseen + 1, masked_end), steps - 1, unroll=1):
            following = _key_at(tile, step + 1, steps, own_begin, own_end, end)
            k_get, v_get = step_ahead(tile, k_get, v_get, following, first_key, previous, False)
            previous = first_key
            first_key = following
        v_get = step_without_more(tile, v_get, first_key, previous)
        previous = first_key
    return k_get, last_step(tile, v_get, previous)


def _key_at(tile, step, steps, own_begin, own_end, end):
    """The first key of a step's tile; past the last step, of the last one's."""
    step = cutlass.min(step, steps - 1)
    return tile.variant.keys * tile_at(step, own_begin, own_end, end)
