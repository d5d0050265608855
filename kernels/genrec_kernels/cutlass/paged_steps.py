"""The steps of a warp group over a part of a request's keys, from the last tile to the first."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute

from genrec_kernels.cutlass.steps import first_step, last_step, next_step
from genrec_kernels.cutlass.steps_ahead import (
    keep_scores,
    step_ahead,
    step_without_more,
    weigh_kept,
)


@cute.jit
def run_steps(tile, k_get, v_get, unseen, masked_end, steps, end, q_place):
    """From step `unseen`, at least one.

    Args:
        tile: see `compute_paged_tiles`.
        k_get, v_get: which tiles of keys and values come next.
        masked_end: up to there keys need a mask.
        steps, end: of the part: its steps, and the tile after its last.
        q_place: of the queries, given back once nothing reads them.
    """
    keys = tile.variant.keys
    previous = keys * (end - 1 - unseen)
    k_get = first_step(tile, k_get, previous)
    for step in cutlass.range(unseen + 1, masked_end, unroll=1):
        first_key = keys * (end - 1 - step)
        k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, True)
        previous = first_key
    for step in cutlass.range(cutlass.max(unseen + 1, masked_end), steps, unroll=1):
        first_key = keys * (end - 1 - step)
        k_get, v_get = next_step(tile, k_get, v_get, first_key, previous, False)
        previous = first_key
    q_place.release()
    return k_get, last_step(tile, v_get, previous)


@cute.jit
def run_ahead(tile, k_get, v_get, unseen, masked_end, steps, end, q_place):
    """As `run_steps`, with each tile's scores made a step ahead."""
    keys = tile.variant.keys
    previous = keys * (end - 1 - unseen)
    k_get = keep_scores(tile, k_get, previous)
    weigh_kept(tile, previous)
    if unseen + 1 < steps:
        first_key = previous - keys
        k_get = keep_scores(tile, k_get, first_key)
        # The last step has none to follow it.
        for _ in cutlass.range(unseen + 1, cutlass.min(masked_end, steps - 1), unroll=1):
            k_get, v_get = step_ahead(
                tile, k_get, v_get, first_key - keys, first_key, previous, True
            )
            previous = first_key
            first_key -= keys
        for _ in cutlass.range(cutlass.max(unseen + 1, masked_end), steps - 1, unroll=1):
            k_get, v_get = step_ahead(
                tile, k_get, v_get, first_key - keys, first_key, previous, False
            )
            previous = first_key
            first_key -= keys
        q_place.release()
        v_get = step_without_more(tile, v_get, first_key, previous)
        previous = first_key
    else:
        q_place.release()
    return k_get, last_step(tile, v_get, previous)
