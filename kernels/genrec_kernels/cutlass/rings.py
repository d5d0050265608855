"""Barriers of the rings in shared memory between the loading warp and the computing ones."""

# mypy: ignore-errors

from types import SimpleNamespace

from cutlass import pipeline

from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP


def rings_of(variant, storage, num_bytes):
    """The rings of a block: `q`, `k` and `v`, which TMA fills, and `work`.

    Args:
        variant: an `AttentionVariant`.
        storage: in shared memory, has `q_barriers`, `k_barriers`, `v_barriers`, `work_barriers`.
        num_bytes: has `q`, `k` and `v`: that come into one slot.
    """
    groups, stages = variant.groups, variant.stages
    return SimpleNamespace(
        q=_tma_ring(storage.q_barriers.data_ptr(), 1, groups, num_bytes.q),
        k=_tma_ring(storage.k_barriers.data_ptr(), stages, groups, num_bytes.k),
        v=_tma_ring(storage.v_barriers.data_ptr(), stages, groups, num_bytes.v),
        work=_work_ring(storage.work_barriers.data_ptr(), groups),
    )


def _tma_ring(barriers, stages, groups, num_bytes):
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


def _work_ring(barriers, groups):
    """Two slots that the loading warp writes and every computing thread gives back."""
    return pipeline.PipelineAsync.create(
        barrier_storage=barriers,
        num_stages=2,
        producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, 1),
        consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, groups * WARP_GROUP),
        defer_sync=True,
    )
