"""What a computing warp group of a block does."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, const_expr

from genrec_kernels.cutlass.bias_vectors import bias_registers, first_vector
from genrec_kernels.cutlass.fragments import fragments_of
from genrec_kernels.cutlass.jagged_steps import run_steps
from genrec_kernels.cutlass.key_tiles import limit_of, limits_of_rows, warp_group_steps
from genrec_kernels.cutlass.steps import pass_by
from genrec_kernels.cutlass.sum_rows import SumRows, store_rows
from genrec_kernels.cutlass.variants import GROUP_ROWS
from genrec_kernels.fp8_layout import WEIGHT_SCALE


@cute.jit
def compute_tiles(variant: cutlass.Constexpr, shared, tensors, scalars, rings):
    """64 rows of each tile that the block claims.

    Args:
        variant: an `AttentionVariant`.
        shared, tensors, scalars, rings: see `HSTUForwardSm90.kernel`.
    """
    limits, keys = tensors.limits, variant.keys
    parts = fragments_of(variant, shared)
    sums, warp_group = parts.sums, parts.warp_group
    q_get = rings.q.make_consumer()
    k_get = rings.k.make_consumer()
    v_get = rings.v.make_consumer()
    work_get = rings.work.make_consumer()
    row_limits = cute.make_rmem_tensor(cute.make_layout(2), Int32)

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
            row = first_row + parts.row_in_tile
            for i in cutlass.range_constexpr(2):
                here = row + 8 * i
                # Rows past the sequence are computed, but not stored.
                row_limits[i] = num_history
                if here < num_rows:
                    row_limits[i] = limit_of(limits, start, here, num_history)

            bias_vector = Int32(0)
            if const_expr(variant.bias):
                bias_vector = first_vector(sequence, scalars.most_tiles, group_row, parts.thread)

            half_alpha, inverse_norm = scalars.half_alpha, scalars.inverse_norm
            if const_expr(variant.fp8):
                half_alpha = half_alpha * tensors.qk_scale[head]
                inverse_norm = inverse_norm * (tensors.v_scale[head] / WEIGHT_SCALE)

            # What every step of this tile needs.
            tile = SimpleNamespace(
                **vars(parts),
                row_limits=row_limits,
                row=row,
                num_keys=num_rows,
                window=scalars.window,
                half_alpha=half_alpha,
                bias_tiles=tensors.bias_tiles,
                bias_vector=bias_vector,
                bias_words=bias_registers(),
            )
            q_place = q_get.wait_and_advance()
            sums.fill(0.0)
            k_get, v_get = pass_by(k_get, v_get, unseen)

            if unseen < steps:
                k_get, v_get = run_steps(
                    *(tile, k_get, v_get, unseen, masked_end, full_end),
                    *(steps, own_begin, own_end, end),
                )
                q_place.release()
                rows = SumRows(variant.width, start, row, num_rows, head, parts.column // 2)
                store_rows(variant, rows, sums, tensors.out, inverse_norm)
            else:
                q_place.release()
