"""What a warp group does with one tile of keys, and of values.

`tile` is what does not change from step to step: see `compute_tiles`, or `compute_paged_tiles`.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import const_expr
from cutlass.cute.nvgpu import warpgroup

from genrec_kernels.cutlass.bias_vectors import fill_from_words, load_bias
from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP
from genrec_kernels.cutlass.byte_weights import pairs_of_weights, put_weights
from genrec_kernels.cutlass.foreign_places import hide_foreign_places
from genrec_kernels.cutlass.paged_bias import fill_from_rows, fill_from_tile
from genrec_kernels.cutlass.products import add_product, product, round_into, stage
from genrec_kernels.cutlass.scores import hide_unseen, silu, zero_rows


def first_step(tile, k_get, first_key, following=None):
    """Weights of the first tile of keys that is seen; it always needs a mask.

    Args:
        following: the first key of the next step, whose bias is asked for; of a bias in tiles.
    """
    scores, k_place = scores_of(tile, k_get, first_key, following)
    warpgroup.wait_group(0)
    k_place.release()
    hide_unseen_keys(tile, scores, first_key, True)
    if const_expr(tile.variant.fp8):
        put_weights(tile.weights, pairs_of_weights(scores, tile.half_alpha))
    else:
        silu(scores, tile.half_alpha)
        round_into(tile.weights, scores)
    return k_get


def next_step(tile, k_get, v_get, first_key, previous, masked, following=None):
    """Scores of one tile of keys, while the previous tile's values are added to the sums."""
    scores, k_place = scores_of(tile, k_get, first_key, following)
    v_get, v_place = add_values(tile, v_get, previous, masked)
    warpgroup.wait_group(1)
    k_place.release()
    hide_unseen_keys(tile, scores, first_key, masked)
    if const_expr(tile.variant.fp8):
        # In eight bits SiLU takes longer than the product beside it, and ptxas moves most of it
        # behind the wait for that product, where nothing overlaps; not past a branch, which the
        # wait for the next values is. The product still reads the weights, so these are put
        # together after it: else ptxas writes to the registers it reads, and waits before.
        pairs = pairs_of_weights(scores, tile.half_alpha)
        v_get.wait()
        warpgroup.wait_group(0)
        v_place.release()
        put_weights(tile.weights, pairs)
    else:
        silu(scores, tile.half_alpha)
        warpgroup.wait_group(0)
        v_place.release()
        round_into(tile.weights, scores)
    return k_get, v_get


def last_step(tile, v_get, previous):
    """Add the last tile's values."""
    v_get, v_place = add_values(tile, v_get, previous, True)
    warpgroup.wait_group(0)
    v_place.release()
    return v_get


@cute.jit
def pass_by(k_get, v_get, steps):
    """Give back the tiles of steps in which this warp group sees nothing."""
    for _ in cutlass.range(steps, unroll=1):
        place = k_get.wait_and_advance()
        place.release()
        place = v_get.wait_and_advance()
        place.release()
    return k_get, v_get


def scores_of(tile, k_get, first_key, following=None):
    """The scores of a tile of keys, queued, in registers; what the product adds to comes first."""
    variant = tile.variant
    scores = tile.qk_group.make_fragment_C(tile.scores_shape)
    if const_expr(variant.paged and variant.bias and not variant.same_bias):
        fill_from_rows(scores, tile.bias, tile.bias_rows, first_key + tile.column, variant.keys)
    k_place = k_get.wait_and_advance()
    has_tiles = const_expr(variant.bias and not variant.paged)
    if has_tiles:
        fill_from_words(scores, tile.bias_words)
    if const_expr(variant.same_bias):
        fill_from_tile(scores, tile.bias_tile, k_place.index, tile.column, variant.keys)
    warpgroup.fence()
    product(tile.first_mma, tile.next_mma, scores, tile.rq, stage(tile.rk, k_place))
    warpgroup.commit_group()
    if has_tiles:
        load_bias(tile.bias_words, tile.bias_tiles, tile.bias_vector, following)
    return scores, k_place


def add_values(tile, v_get, first_key, masked):
    """Add a tile's values, by its weights, to the sums, queued."""
    v_place = v_get.wait_and_advance()
    if const_expr(masked):
        _hide_foreign_values(tile, v_place.index, first_key)
    warpgroup.fence()
    add_product(tile.pv_mma, tile.sums, tile.weights, stage(tile.rv, v_place))
    warpgroup.commit_group()
    return v_get, v_place


def hide_unseen_keys(tile, scores, first_key, masked):
    """Nothing of the keys that a row does not see."""
    if const_expr(masked):
        hide_unseen(
            scores,
            tile.row_limits,
            tile.row,
            first_key + tile.column,
            tile.window,
            tile.variant.window,
            not tile.variant.paged,
        )


def _hide_foreign_values(tile, stage, first_key):
    """Nothing of the values that lie past the keys."""
    if const_expr(tile.variant.fp8):
        if const_expr(tile.variant.paged):  # else its values are zero there
            hide_foreign_places(tile.variant, tile.sv, stage, first_key, tile.num_keys, tile.thread)
        return
    hide_foreign_rows(tile.variant, tile.sv, stage, first_key, tile.num_keys, tile.thread)


@cute.jit
def hide_foreign_rows(variant: cutlass.Constexpr, sv, stage, first_key, num_keys, thread):
    """Zero the value rows of a tile that lie past the keys.

    They belong to another, or to nobody. Their weight is 0, but 0 times NaN would let one
    sequence's NaN into another's output.
    """
    if first_key + variant.keys > num_keys:
        zero_rows(sv, stage, num_keys - first_key, variant.width, variant.keys, thread)
        # The tensor cores read shared memory through another proxy than stores write it.
        cute.arch.fence_proxy("async.shared", space="cta")
        warp_group = cute.arch.make_warp_uniform(cute.arch.warp_idx() // (WARP_GROUP // WARP))
        cute.arch.barrier(barrier_id=warp_group, number_of_threads=WARP_GROUP)
