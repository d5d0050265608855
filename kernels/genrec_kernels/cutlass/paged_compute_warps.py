"""What a computing warp group of a block does where keys and values are in pages."""

# mypy: ignore-errors

from types import SimpleNamespace

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, const_expr

from genrec_kernels.cutlass.fragments import fragments_of
from genrec_kernels.cutlass.key_parts import steps_of_group
from genrec_kernels.cutlass.key_tiles import limits_of_rows
from genrec_kernels.cutlass.paged_steps import run_ahead, run_steps
from genrec_kernels.cutlass.steps import pass_by
from genrec_kernels.cutlass.sum_rows import SumRows, add_own, store_part_rows, store_rows
from genrec_kernels.cutlass.variants import GROUP_ROWS
from genrec_kernels.fp8_layout import WEIGHT_SCALE


@cute.jit
def compute_paged_tiles(variant: cutlass.Constexpr, shared, tensors, scalars, rings):
    """64 rows of each tile that the block claims.

    Args:
        variant: an `AttentionVariant`.
        shared, tensors, scalars, rings: see `PagedHSTUSm90.kernel`.
    """
    limits, keys = tensors.limits, variant.keys
    parts = fragments_of(variant, shared)
    sums, warp_group = parts.sums, parts.warp_group
    q_get = rings.q.make_consumer()
    k_get = rings.k.make_consumer()
    v_get = rings.v.make_consumer()
    work_get = rings.work.make_consumer()
    row_limits = cute.make_rmem_tensor(cute.make_layout(2), Int32)
    bias_rows = cute.make_rmem_tensor(cute.make_layout(2), Int32)

    running = Boolean(True)
    while running:
        slot = work_get.wait_and_advance()
        start = shared.work[0, slot.index]
        num_rows = shared.work[1, slot.index]
        num_keys = shared.work[2, slot.index]
        head = shared.work[3, slot.index]
        first_row = shared.work[4, slot.index]
        split = shared.work[5, slot.index]
        begin = shared.work[6, slot.index]
        end = shared.work[7, slot.index]
        slot.release()
        running = start >= 0
        if running:
            steps = end - begin
            group_row = first_row + warp_group * GROUP_ROWS
            least, most = limits_of_rows(limits, start, group_row, num_rows, None, GROUP_ROWS)
            unseen, masked_end = steps_of_group(
                least, most, begin, end, num_keys, group_row < num_rows, keys
            )
            row = first_row + parts.row_in_tile
            for i in cutlass.range_constexpr(2):
                # Rows past the request are computed, but not stored.
                here = start + cutlass.min(row + 8 * i, num_rows - 1)
                row_limits[i] = Int32(limits[here])
                bias_rows[i] = here

            # What every step of this tile needs.
            tile = SimpleNamespace(
                **vars(parts),
                row_limits=row_limits,
                row=row,
                num_keys=num_keys,
                window=Int32(0),
                half_alpha=scalars.half_alpha,
                bias=tensors.bias,
                bias_rows=bias_rows,
                bias_tile=shared.bias,
            )
            # What a row gets from itself comes first, while its first keys are on their way.
            inverse_norm = scalars.inverse_norm
            sums_per_value = own_factor = Float32(1.0)
            own_bias = Float32(0.0)
            if const_expr(variant.fp8):  # sums are of values as they are in the pages
                inverse_norm = inverse_norm * (tensors.v_scale[head] / WEIGHT_SCALE)
                sums_per_value = WEIGHT_SCALE / tensors.v_scale[head]
                own_factor = scalars.own_factor
            if const_expr(variant.bias):
                own_bias = tensors.own_bias[0]
            rows = SumRows(variant.width, start, row, num_rows, head, parts.column // 2)
            sums.fill(0.0)
            if split == 0:
                add_own(
                    *(rows, sums, tensors, scalars.half_alpha),
                    *(own_bias, own_factor, sums_per_value),
                )
            q_place = q_get.wait_and_advance()
            k_get, v_get = pass_by(k_get, v_get, unseen)
            if unseen < steps:
                run = run_ahead if const_expr(variant.ahead) else run_steps
                k_get, v_get = run(tile, k_get, v_get, unseen, masked_end, steps, end, q_place)
            else:
                q_place.release()

            if scalars.splits > 1:
                store_part_rows(
                    *(rows, sums, tensors.partial, split),
                    *(Int32(cute.size(limits)), tensors.q.shape[1], inverse_norm),
                )
            else:
                store_rows(variant, rows, sums, tensors.out, inverse_norm)
