"""What a computing warp group of a block of the linear layers does."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32, const_expr, pipeline
from cutlass.cute.nvgpu import warpgroup

from genrec_kernels.cutlass.block_sizes import WARP_GROUP
from genrec_kernels.cutlass.linear_columns import keep_columns
from genrec_kernels.cutlass.linear_epilogue import finish, lane_place, load_residual
from genrec_kernels.cutlass.linear_operands import linear_fragments
from genrec_kernels.cutlass.linear_places import place_of
from genrec_kernels.cutlass.linear_variants import GROUPS

#: Numbers of barriers: one for each warp group's own threads, and for its turn.
_FIRST_OWN, _FIRST_TURN = 1, 1 + GROUPS


@cute.jit
def compute_products(variant: cutlass.Constexpr, shared, tensors, ring, schedule):
    """Every other tile of the block, or its rows of every tile.

    Args:
        variant: a `LinearVariant`.
        shared, tensors, ring, schedule: see `LinearSm90.kernel`.
    """
    tile = variant.tile
    thread = cute.arch.thread_idx()[0] - WARP_GROUP
    warp_group = cute.arch.make_warp_uniform(thread // WARP_GROUP)
    thread = thread % WARP_GROUP
    parts = linear_fragments(variant, shared, warp_group)
    sums = cute.make_rmem_tensor(parts.sums_shape, cutlass.Float32)
    read = pipeline.make_pipeline_state(pipeline.PipelineUserType.Consumer, tile.stages)
    first, stride = schedule.first, schedule.stride
    if const_expr(not tile.together):
        # The steps of one group's tile lie in the ring before those of the other's.
        first = first + warp_group * stride
        stride = stride * GROUPS
        read.advance(warp_group * schedule.steps)
    turn = Int32(0)
    for index in cutlass.range(first, schedule.tiles, stride, unroll=1):
        row_tile, column_tile = place_of(variant, schedule, index)
        place = lane_place(variant, warp_group, thread, row_tile)
        first_column = column_tile * tile.columns
        columns = shared.columns[None, None, turn, warp_group]
        keep_columns(variant, columns, tensors, first_column, thread)
        residual = load_residual(variant, tensors, place, first_column)
        # All of the group have passed the epilogue before the last, so that none reads what others
        # overwrite here.
        cute.arch.barrier(barrier_id=_FIRST_OWN + warp_group, number_of_threads=WARP_GROUP)
        if const_expr(not tile.together):
            await_turn(schedule, index, warp_group)
        read, free = queue_products(parts, sums, ring, read, schedule.steps)
        if const_expr(not tile.together):
            pass_turn(schedule, index, warp_group)
        warpgroup.wait_group(0)
        ring.consumer_release(free)
        finish(variant, sums, residual, columns, tensors, place, first_column)
        if const_expr(not tile.together):
            read.advance(schedule.steps)
        turn = turn ^ 1


@cute.jit
def await_turn(schedule, index, warp_group):
    """Wait until the other warp group has seen all steps of the tile before come.

    Until then a stage may be two rounds behind this group's, which its barrier cannot tell from
    none. So the tensor cores also finish one tile before they begin the next.
    """
    if index > schedule.first:
        cute.arch.barrier(
            barrier_id=_FIRST_TURN + warp_group, number_of_threads=GROUPS * WARP_GROUP
        )


@cute.jit
def pass_turn(schedule, index, warp_group):
    """Let the other warp group begin, if it has a tile after this one."""
    if index + schedule.stride < schedule.tiles:
        cute.arch.barrier_arrive(
            barrier_id=_FIRST_TURN + 1 - warp_group, number_of_threads=GROUPS * WARP_GROUP
        )


@cute.jit
def queue_products(parts, sums, ring, read, steps):
    """``sums = x · Wᵀ``, of which the last step may be under way.

    Returns:
        The places in the ring behind the last step, and of the last step, which is not given back.
    """
    ring.consumer_wait(read)
    warpgroup.fence()
    _queue_step(parts, parts.first_mma, sums, read.index)
    warpgroup.commit_group()
    free = read.clone()
    read.advance()
    for _ in cutlass.range(1, steps, unroll=1):
        ring.consumer_wait(read)
        warpgroup.fence()
        _queue_step(parts, parts.next_mma, sums, read.index)
        warpgroup.commit_group()
        # The products of the step before are done, so its place is free.
        warpgroup.wait_group(1)
        ring.consumer_release(free)
        read.advance()
        free.advance()
    return read, free


@cute.jit
def _queue_step(parts, first_mma, sums, index):
    """The products of a step; only `first_mma` may write sums."""
    for block in cutlass.range_constexpr(cute.size(parts.rx, mode=[2])):
        mma = first_mma if block == 0 else parts.next_mma
        cute.gemm(
            mma, sums, parts.rx[None, None, block, index], parts.rw[None, None, block, index], sums
        )
