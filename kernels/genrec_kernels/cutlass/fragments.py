"""A computing thread's part of the products: operands, sums, and where its scores are."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass.cute as cute
from cutlass import Float16, Float32

from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP
from genrec_kernels.cutlass.products import scores_product_of, values_product_of, weights_of
from genrec_kernels.cutlass.variants import GROUP_ROWS


def fragments_of(variant, shared):
    """What stays the same from tile to tile.

    Args:
        variant: an `AttentionVariant`.
        shared: has `q`, `k` and `v`, tiles in shared memory.

    Returns:
        The products: `first_mma`, which adds to a bias if there is one, `next_mma` and `pv_mma`;
        their operands `rq`, `rk`, `rv` and `weights`; `scores_shape`; `kept_scores`, where they are
        made a step ahead; `sums`. `row_in_tile`
        and `column` of the thread's first score: it holds that row and the one 8 below, columns
        8j + `column` + {0, 1}. `warp_group` and `thread`: its number, and the thread's in it.
        `variant`, and `sv`, values in shared memory.
    """
    dtype, groups, keys = shared.q.element_type, variant.groups, variant.keys
    thread, _, _ = cute.arch.thread_idx()
    thread = thread - WARP_GROUP
    warp_group = cute.arch.make_warp_uniform(thread // WARP_GROUP)
    thread = thread % WARP_GROUP

    # The flag that a product adds to its accumulator is set outside of loops.
    scores_dtype = Float16 if variant.fp8 else Float32
    first_mma = scores_product_of(dtype, groups, keys, variant.bias, scores_dtype)
    next_mma = scores_product_of(dtype, groups, keys, True, scores_dtype)
    pv_mma = values_product_of(dtype, groups, variant.width)
    # Operands in shared memory are descriptors that a whole warp group shares.
    qk_group = first_mma.get_slice(warp_group * WARP_GROUP)
    pv_group = pv_mma.get_slice(warp_group * WARP_GROUP)
    rq = qk_group.make_fragment_A(qk_group.partition_A(shared.q))
    rk = qk_group.make_fragment_B(qk_group.partition_B(shared.k))
    rv = pv_group.make_fragment_B(pv_group.partition_B(shared.v))
    scores_shape = qk_group.partition_shape_C((variant.rows, keys))
    sums_shape = pv_group.partition_shape_C((variant.rows, variant.width))
    return SimpleNamespace(
        variant=variant,
        sv=shared.v,
        first_mma=first_mma,
        next_mma=next_mma,
        pv_mma=pv_mma,
        qk_group=qk_group,
        rq=rq,
        rk=rk,
        rv=rv,
        scores_shape=scores_shape,
        kept_scores=qk_group.make_fragment_C(scores_shape) if variant.ahead else None,
        sums=pv_group.make_fragment_C(sums_shape),
        weights=weights_of(dtype, keys),
        warp_group=warp_group,
        thread=thread,
        row_in_tile=warp_group * GROUP_ROWS + thread // WARP * 16 + thread % WARP // 4,
        column=thread % 4 * 2,
    )
