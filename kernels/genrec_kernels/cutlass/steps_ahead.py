"""What a warp group does with one tile of keys where the next tile's scores are made meanwhile.

In eight bits SiLU takes about as long as both products. Beside the product with the values alone
(`steps.next_step`) it waits for its scores first, and the tensor cores then wait for it; a step
ahead, both products run beside it. The scores of two tiles have to be held in registers for it.

`tile` is as in `steps`; `kept_scores` are those of the step.
"""

# mypy: ignore-errors

from cutlass.cute.nvgpu import warpgroup

from genrec_kernels.cutlass.byte_weights import pairs_of_weights, put_weights
from genrec_kernels.cutlass.steps import add_values, hide_unseen_keys, scores_of


def keep_scores(tile, k_get, first_key):
    """Make a tile's scores, and wait for them."""
    scores, k_place = scores_of(tile, k_get, first_key)
    warpgroup.wait_group(0)
    k_place.release()
    tile.kept_scores.store(scores.load())
    return k_get


def weigh_kept(tile, first_key):
    """Weights of the first tile, beside nothing."""
    hide_unseen_keys(tile, tile.kept_scores, first_key, True)
    put_weights(tile.weights, pairs_of_weights(tile.kept_scores, tile.half_alpha))


def step_ahead(tile, k_get, v_get, following, first_key, previous, masked):
    """Weights of the tile at `first_key`, while the previous tile's values are added to the sums
    and the scores of the following one are made."""
    scores, k_place = scores_of(tile, k_get, following)
    v_get, v_place = add_values(tile, v_get, previous, masked)
    pairs = _weigh_beside(tile, v_get, first_key, masked)
    k_place.release()
    v_place.release()
    put_weights(tile.weights, pairs)
    tile.kept_scores.store(scores.load())
    return k_get, v_get


def step_without_more(tile, v_get, first_key, previous):
    """As `step_ahead`, of the last tile."""
    v_get, v_place = add_values(tile, v_get, previous, True)
    pairs = _weigh_beside(tile, v_get, first_key, True)
    v_place.release()
    put_weights(tile.weights, pairs)
    return v_get


def _weigh_beside(tile, v_get, first_key, masked):
    """Weights beside products, which are waited for; these read those of the step before."""
    hide_unseen_keys(tile, tile.kept_scores, first_key, masked)
    pairs = pairs_of_weights(tile.kept_scores, tile.half_alpha)
    # A branch, which ptxas moves nothing of SiLU past: see `steps.next_step`.
    v_get.wait()
    warpgroup.wait_group(0)
    return pairs
