"""What attention with a time bias needs to know of a batch's times, found once for all layers.

Letters in shapes: R rows of all sequences, B sequences, G blocks of rows of the longest sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genrec_kernels import reference
from genrec_kernels.dispatch import Backend, choose_backend
from genrec_kernels.jagged import JaggedRows, offsets_of
from genrec_kernels.plan_blocks import num_blocks

#: Beyond this the Triton kernels' 32-bit time differences do not reach (2^29 seconds).
MAX_TRITON_BUCKETS = 67


class TimePlan(NamedTuple):
    """Times as the attention kernels read them.

    seconds: int32 [R], from the middle of the sequence's times.
    buckets: int16 [B, G, G], for each block of rows and block of keys (`BLOCK_ROWS` each) the
        least bucket of their time differences in the low byte, the greatest in the high one.
        `UNORDERED` where a key may be later than a row, `NEVER_SEEN` where no row sees a key.
        Blocks above the diagonal are written only as far as a tile may reach.
    """

    seconds: Tensor
    buckets: Tensor


def plan_times(
    timestamps: Tensor,
    *,
    rows: JaggedRows,
    boundaries: Tensor,
    max_rows: int | None = None,
    backend: Backend | None = None,
) -> TimePlan | None:
    """Plan a batch whose layers all have time buckets of the same boundaries.

    Args:
        timestamps: int64 [R], unix seconds.
        rows: layout of the R rows.
        boundaries: int64 [T + 1], from `time_bucket_boundaries`.
        max_rows: as in `hstu_attention`.
        backend: that of the attention.

    Returns:
        The plan, to hand to each layer's `hstu_attention`; None where the reference will run,
        which needs none.

    Raises:
        BackendUnavailable: the forced backend cannot run here.
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and _chosen(timestamps, boundaries, backend) == "reference":
        return None
    if max_rows is None:
        if compiling:
            raise ValueError("max_rows must be given where plan_times is compiled or exported")
        max_rows = rows.max_history + rows.max_candidates
    return TimePlan(*_plan_times(timestamps, offsets_of(rows), boundaries, max_rows, backend))


def _chosen(timestamps: Tensor, boundaries: Tensor, forced: str | None) -> Backend:
    few = boundaries.shape[0] - 1 <= MAX_TRITON_BUCKETS
    offered: tuple[Backend, ...] = ("triton", "reference") if few else ("reference",)
    return choose_backend(
        "plan_times",
        timestamps.device,
        offered,
        forced=forced,
        instead={"cutlass": "triton"},  # whose plan its attention reads
    )


@torch.library.custom_op("genrec::plan_times", mutates_args=())
def _plan_times(
    timestamps: Tensor, offsets: Tensor, boundaries: Tensor, max_rows: int, backend: str | None
) -> tuple[Tensor, Tensor]:
    """`TimePlan` as an operator; the reference makes the same numbers."""
    if _chosen(timestamps, boundaries, backend) == "triton":
        from genrec_kernels.triton.time_plan import plan_times as kernels

        return kernels(timestamps, offsets, boundaries, max_rows)
    return reference.plan_times(timestamps, offsets, boundaries, max_rows)


@_plan_times.register_fake
def _(
    timestamps: Tensor,
    offsets: Tensor,
    boundaries: Tensor,  # noqa: ARG001
    max_rows: int,
    backend: str | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    blocks = num_blocks(max_rows)
    return (
        timestamps.new_empty(timestamps.shape, dtype=torch.int32),
        timestamps.new_empty((offsets.shape[0] - 1, blocks, blocks), dtype=torch.int16),
    )
