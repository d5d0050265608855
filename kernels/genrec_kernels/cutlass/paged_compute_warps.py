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
from genrec_kernels.cutlass.scores import weight_of
from genrec_kernels.cutlass.steps import pass_by
from genrec_kernels.cutlass.stores import store, store_part
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
    sums, column, warp_group = parts.sums, parts.column, parts.warp_group
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
            sums_per_value = Float32(1.0)
            if const_expr(variant.fp8):  # sums are of values as they are in the pages
                inverse_norm = inverse_norm * (tensors.v_scale[head] / WEIGHT_SCALE)
                sums_per_value = WEIGHT_SCALE / tensors.v_scale[head]
            sums.fill(0.0)
            if split == 0:
                _add_own(
                    *(variant, sums, tensors, scalars, start, row, num_rows, head, column),
                    sums_per_value,
                )
            q_place = q_get.wait_and_advance()
            k_get, v_get = pass_by(k_get, v_get, unseen)
            if unseen < steps:
                run = run_ahead if const_expr(variant.ahead) else run_steps
                k_get, v_get = run(tile, k_get, v_get, unseen, masked_end, steps, end, q_place)
            else:
                q_place.release()

            if scalars.splits > 1:
                store_part(
                    *(variant, sums, tensors.partial, start, row, num_rows, head, split, column),
                    *(inverse_norm, Int32(cute.size(limits)), tensors.q.shape[1]),
                )
            else:
                store(
                    *(variant, sums, tensors.out, start, row, num_rows, head, column),
                    *(inverse_norm, tensors.out.element_type),
                )


@cute.jit
def _add_own(
    variant: cutlass.Constexpr,
    sums,
    tensors,
    scalars,
    start,
    row,
    num_rows,
    head,
    column,
    sums_per_value,
):
    """What a row gets from itself: its own key and value are not in the pages.

    Four lanes share a row: of its query and key each multiplies every fourth 16 bytes, of its
    value it has the columns of its sums.
    """
    dtype = tensors.q.element_type
    own_bias = Float32(0.0)
    if const_expr(variant.bias):
        own_bias = tensors.own_bias[0]
    v_pairs = cute.recast_tensor(tensors.v, Int32)
    count = variant.width // 8
    for i in cutlass.range_constexpr(2):
        here = start + cutlass.min(row + 8 * i, num_rows - 1)
        values = cute.make_rmem_tensor(cute.make_layout(count), Int32)
        for j in cutlass.range_constexpr(count):
            values[j] = v_pairs[here, head, 4 * j + column // 2]
        score = Float32(0.0)
        for j in cutlass.range_constexpr(count // 4):
            chunk = 4 * j + column // 2
            own = _eight_of(tensors.q, here, head, chunk) * _eight_of(tensors.k, here, head, chunk)
            score += own.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
        score += cute.arch.shuffle_sync_bfly(score, 1)
        score += cute.arch.shuffle_sync_bfly(score, 2)
        if const_expr(variant.fp8):
            score *= scalars.own_factor
        weight = sums_per_value * weight_of(score + own_bias, scalars.half_alpha)
        numbers = cute.make_rmem_tensor(cute.make_layout(2 * count), Float32)
        numbers.store(cute.recast_tensor(values, dtype).load().to(Float32))
        for j in cutlass.range_constexpr(count):
            for c in cutlass.range_constexpr(2):
                sums[c + 2 * i + 4 * j] = weight * numbers[2 * j + c]


@cute.jit
def _eight_of(x, row, head, chunk):
    """Eight neighbouring columns of a row, as float32."""
    found = cute.make_rmem_tensor(cute.make_layout(8), x.element_type)
    cute.autovec_copy(cute.local_tile(x[row, head, None], (8,), (chunk,)), found)
    return found.load().to(Float32)
