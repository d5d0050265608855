"""Barriers of the rings in shared memory between the loading warp and the computing ones."""

# mypy: ignore-errors

from cutlass import pipeline

from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP


def tma_ring(barriers, stages, groups, num_bytes):
    """Slots that TMA fills, `num_bytes` each, and every computing warp gives back."""
    return pipeline.PipelineTmaAsync.create(
        barrier_storage=barriers,
        num_stages=stages,
        producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, 1),
        consumer_group=pipeline.CooperativeGroup(
            pipeline.Agent.Thread, groups * (WARP_GROUP // WARP)
        ),
        tx_count=num_bytes,
        defer_sync=True,
    )


def work_ring(barriers, groups):
    """Two slots that the loading warp writes and every computing thread gives back."""
    return pipeline.PipelineAsync.create(
        barrier_storage=barriers,
        num_stages=2,
        producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, 1),
        consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, groups * WARP_GROUP),
        defer_sync=True,
    )
