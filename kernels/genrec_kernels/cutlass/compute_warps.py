"""What a computing warp group of a block does."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, const_expr
from cutlass.cute.nvgpu import OperandMajorMode, warpgroup

from genrec_kernels.cutlass.bias import fill_bias
from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP
from genrec_kernels.cutlass.key_tiles import limit_of, limits_of_rows, tile_at, warp_group_steps
from genrec_kernels.cutlass.products import add_product, product, product_of, round_into, stage
from genrec_kernels.cutlass.scores import masked_silu, silu, zero_rows
from genrec_kernels.cutlass.variants import GROUP_ROWS


@cute.jit
def compute_tiles(variant: cutlass.Constexpr, shared, tensors, scalars, rings):
    """64 rows of each tile that the block claims.

    Args:
        variant: an `AttentionVariant`.
        shared, tensors, scalars, rings: see `HSTUForwardSm90.kernel`.
    """
    dtype = shared.q.element_type
    limits, keys = tensors.limits, variant.keys
    thread, _, _ = cute.arch.thread_idx()
    thread = thread - WARP_GROUP
    warp_group = cute.arch.make_warp_uniform(thread // WARP_GROUP)
    thread = thread % WARP_GROUP

    # The flag that a product adds to its accumulator is set outside of loops.
    first_mma = product_of(dtype, variant.groups, keys, OperandMajorMode.K, variant.bias)
    next_mma = product_of(dtype, variant.groups, keys, OperandMajorMode.K, True)
    pv_mma = product_of(dtype, variant.groups, variant.width, OperandMajorMode.MN, True)
    # Operands in shared memory are descriptors that a whole warp group shares.
    qk_group = first_mma.get_slice(warp_group * WARP_GROUP)
    pv_group = pv_mma.get_slice(warp_group * WARP_GROUP)
    rq = qk_group.make_fragment_A(qk_group.partition_A(shared.q))
    rk = qk_group.make_fragment_B(qk_group.partition_B(shared.k))
    rv = pv_group.make_fragment_B(pv_group.partition_B(shared.v))
    scores_shape = qk_group.partition_shape_C((variant.rows, keys))
    sums = pv_group.make_fragment_C(pv_group.partition_shape_C((variant.rows, variant.width)))
    # The scores' registers in the order in which the second product reads its operand: the
    # same, so one is the other's view (PTX ISA, "wgmma: register fragments").
    weights = cute.make_rmem_tensor(
        cute.make_layout(((2, 2, 2), 1, keys // 16), stride=((1, 2, 4), 0, 8)), dtype
    )

    # Where this thread's scores are: rows `row` and `row + 8`, columns 8j + `column` + {0, 1}.
    row_of_thread = warp_group * GROUP_ROWS + thread // WARP * 16 + thread % WARP // 4
    column = thread % 4 * 2

    q_get = rings.q.make_consumer()
    k_get = rings.k.make_consumer()
    v_get = rings.v.make_consumer()
    work_get = rings.work.make_consumer()
    row_limits = cute.make_rmem_tensor(cute.make_layout(2), Int32)
    row_seconds = cute.make_rmem_tensor(cute.make_layout(2), Int32)

    running = Boolean(True)
    while running:
        slot = work_get.wait_and_advance()
        start = shared.work[0, slot.index]
        num_rows = shared.work[1, slot.index]
        num_history = shared.work[2, slot.index]
        head = shared.work[3, slot.index]
        first_row = shared.work[4, slot.index]
        own_begin = shared.work[5, slot.index]
        own_end = shared.work[6, slot.index]
        begin = shared.work[7, slot.index]
        end = shared.work[8, slot.index]
        sequence = shared.work[9, slot.index]
        slot.release()
        running = start >= 0
        if running:
            steps = own_end - own_begin + end - begin
            group_row = first_row + warp_group * GROUP_ROWS
            least, most = limits_of_rows(
                limits, start, group_row, num_rows, num_history, GROUP_ROWS
            )
            unseen, masked_end, full_end = warp_group_steps(
                group_row,
                num_rows,
                least,
                most,
                scalars.window,
                own_begin,
                own_end,
                begin,
                end,
                GROUP_ROWS,
                keys,
                variant.window,
            )
            row = first_row + row_of_thread
            for i in cutlass.range_constexpr(2):
                here = row + 8 * i
                # Rows past the sequence are computed, but not stored.
                row_limits[i] = num_history
                row_seconds[i] = Int32(0)
                if here < num_rows:
                    row_limits[i] = limit_of(limits, start, here, num_history)
                    if const_expr(variant.bias):
                        row_seconds[i] = tensors.seconds[start + here]

            # What every step of this tile needs.
            tile = SimpleNamespace(
                variant=variant,
                qk_group=qk_group,
                scores_shape=scores_shape,
                first_mma=first_mma,
                next_mma=next_mma,
                pv_mma=pv_mma,
                rq=rq,
                rk=rk,
                rv=rv,
                sv=shared.v,
                sums=sums,
                weights=weights,
                row_limits=row_limits,
                row=row,
                column=column,
                num_rows=num_rows,
                thread=thread,
                window=scalars.window,
                half_alpha=scalars.half_alpha,
                tables=tensors,
                sequence=sequence,
                start=start,
                group_row=group_row,
                row_seconds=row_seconds,
            )
            q_place = q_get.wait_and_advance()
            sums.fill(0.0)
            for _ in cutlass.range(unseen, unroll=1):
                place = k_get.wait_and_advance()
                place.release()
                place = v_get.wait_and_advance()
                place.release()

            if unseen < steps:
                # The first tile that is seen; it always needs a mask: it holds the last row.
                first_key = keys * tile_at(unseen, own_begin, own_end, end)
                scores = _begin_scores(tile, first_key, True)
                k_place = k_get.wait_and_advance()
                warpgroup.fence()
                product(first_mma, next_mma, scores, rq, stage(rk, k_place))
                warpgroup.commit_group()
                warpgroup.wait_group(0)
                k_place.release()
                _weigh(tile, scores, first_key, True)
                round_into(weights, scores)

                previous = first_key
                for step in cutlass.range(unseen + 1, masked_end, unroll=1):
                    first_key = keys * tile_at(step, own_begin, own_end, end)
                    k_get, v_get = _step(tile, k_get, v_get, first_key, previous, True)
                    previous = first_key
                for step in cutlass.range(masked_end, full_end, unroll=1):
                    first_key = keys * tile_at(step, own_begin, own_end, end)
                    k_get, v_get = _step(tile, k_get, v_get, first_key, previous, False)
                    previous = first_key
                if const_expr(variant.window):
                    for step in cutlass.range(full_end, steps, unroll=1):
                        first_key = keys * tile_at(step, own_begin, own_end, end)
                        k_get, v_get = _step(tile, k_get, v_get, first_key, previous, True)
                        previous = first_key
                q_place.release()
                v_place = v_get.wait_and_advance()
                hide_foreign_rows(variant, shared.v, v_place.index, previous, num_rows, thread)
                warpgroup.fence()
                add_product(pv_mma, sums, weights, stage(rv, v_place))
                warpgroup.commit_group()
                warpgroup.wait_group(0)
                v_place.release()
                store(
                    *(variant, sums, tensors.out, start, row, num_rows, head, column),
                    *(scalars.inverse_norm, dtype),
                )
            else:
                q_place.release()


def _step(tile, k_get, v_get, first_key, previous, masked):
    """Scores of one tile of keys, while the previous tile's values are added to the sums."""
    scores = _begin_scores(tile, first_key, masked)
    k_place = k_get.wait_and_advance()
    warpgroup.fence()
    product(tile.first_mma, tile.next_mma, scores, tile.rq, stage(tile.rk, k_place))
    warpgroup.commit_group()
    v_place = v_get.wait_and_advance()
    if const_expr(masked):
        hide_foreign_rows(
            tile.variant, tile.sv, v_place.index, previous, tile.num_rows, tile.thread
        )
    warpgroup.fence()
    add_product(tile.pv_mma, tile.sums, tile.weights, stage(tile.rv, v_place))
    warpgroup.commit_group()
    warpgroup.wait_group(1)
    k_place.release()
    _weigh(tile, scores, first_key, masked)
    warpgroup.wait_group(0)
    v_place.release()
    round_into(tile.weights, scores)
    return k_get, v_get


def _begin_scores(tile, first_key, masked):
    """Registers for the scores of a tile of keys; what the product adds to, if to anything."""
    scores = tile.qk_group.make_fragment_C(tile.scores_shape)
    if const_expr(tile.variant.bias):
        fill_bias(
            scores,
            tile.tables,
            tile.sequence,
            tile.start,
            tile.num_rows,
            tile.group_row,
            first_key,
            tile.column,
            tile.row_limits,
            tile.row_seconds,
            GROUP_ROWS,
            tile.variant.keys,
            masked,
        )
    return scores


def _weigh(tile, scores, first_key, masked):
    """SiLU of a tile's scores, in place."""
    if const_expr(masked):
        masked_silu(
            scores,
            tile.half_alpha,
            tile.row_limits,
            tile.row,
            first_key + tile.column,
            tile.window,
            tile.variant.window,
        )
    else:
        silu(scores, tile.half_alpha)


@cute.jit
def hide_foreign_rows(variant: cutlass.Constexpr, sv, stage, first_key, num_rows, thread):
    """Zero the value rows of a tile that lie past the sequence.

    They belong to another, or to nobody. Their weight is 0, but 0 times NaN would let one
    sequence's NaN into another's output.
    """
    if first_key + variant.keys > num_rows:
        zero_rows(sv, stage, num_rows - first_key, variant.width, variant.keys, thread)
        # The tensor cores read shared memory through another proxy than stores write it.
        cute.arch.fence_proxy("async.shared", space="cta")
        warp_group = cute.arch.make_warp_uniform(cute.arch.warp_idx() // (WARP_GROUP // WARP))
        cute.arch.barrier(barrier_id=warp_group, number_of_threads=WARP_GROUP)


@cute.jit
def store(
    variant: cutlass.Constexpr, sums, out, start, row, num_rows, head, column, inverse_norm, dtype
):
    """Write a thread's two rows, two neighbouring columns at a time."""
    pairs_out = cute.recast_tensor(out, Int32)
    rounded = cute.make_rmem_tensor(sums.layout, dtype)
    rounded.store((sums.load() * inverse_norm).to(dtype))
    pairs = cute.recast_tensor(rounded, Int32)
    for i in cutlass.range_constexpr(2):
        here = row + 8 * i
        if here < num_rows:
            for j in cutlass.range_constexpr(variant.width // 8):
                pairs_out[start + here, head, 4 * j + column // 2] = pairs[i + 2 * j]
