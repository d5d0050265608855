"""The linear layers of an HSTU layer for Hopper (sm_90a), in CuTe DSL: a matrix product whose
epilogue adds the bias, then applies SiLU or adds a residual.

One warp group loads, two compute. Steps of x and W come through the tensor memory accelerator
(TMA) into one ring in shared memory, products run on WGMMA. Blocks stay, and take tiles in a fixed
order, so that loads run on from one tile to the next. Either the two warp groups take turns with
tiles, one's products beside the other's epilogue, or they have one larger tile between them. Blocks
of a cluster, below each other, each load a part of the W that they all read.

Letters in shapes: R rows, K width, N columns.
"""

# mypy: ignore-errors
# The DSL traces these functions; Python's types say nothing about them.

from math import prod
from types import SimpleNamespace

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, pipeline
from cutlass.cute.nvgpu import cpasync
from cutlass.memory import SmemAllocator

from genrec_kernels.cutlass.block_sizes import LINEAR_REGISTERS, WARP, WARP_GROUP
from genrec_kernels.cutlass.linear_compute_warps import compute_products
from genrec_kernels.cutlass.linear_load_warp import load_steps
from genrec_kernels.cutlass.linear_operands import linear_operands
from genrec_kernels.cutlass.linear_places import schedule_of
from genrec_kernels.cutlass.linear_variants import GROUPS, LinearVariant


class LinearSm90:
    """`genrec_kernels.fused_linear` and `genrec_kernels.fp8_linear`'s products, of one variant."""

    def __init__(self, variant: LinearVariant):
        self.variant = variant
        self.threads = WARP_GROUP * (GROUPS + 1)
        self.registers = LINEAR_REGISTERS
        # Of two tiles of each warp group: while one's are read, the next's come.
        self.columns = (variant.tile.columns, 2 if variant.fp8 else 1, 2, GROUPS)

    @cute.jit
    def __call__(
        self,
        x: cute.Tensor,
        weight: cute.Tensor,
        bias: cute.Tensor,
        residual: cute.Tensor | None,
        x_scale: cute.Tensor | None,
        w_scale: cute.Tensor | None,
        out: cute.Tensor,
        blocks: Int32,
        group: Int32,
        stream: cuda.CUstream,
    ):
        """Launch on `blocks` blocks.

        Args:
            x, weight: [R, K] and [N, K], the last axis contiguous, strides of the other multiples
                of 16 bytes.
            bias: [N].
            residual: [R, N] as `out`, of variants that add one.
            x_scale, w_scale: with fp8, float32 [R] and [N], what rows of both are times.
            out: [R, N], strides as x's.
            blocks: how many run: whole clusters.
            group: tiles of rows that run side by side, see `linear_places`.
        """
        tile, dtype = self.variant.tile, x.element_type
        operands = linear_operands(self.variant, x, weight)
        self.num_bytes = operands.num_bytes

        @cute.struct
        class SharedStorage:
            barriers: cute.struct.MemRange[cutlass.Int64, 2 * tile.stages]
            columns: cute.struct.Align[cute.struct.MemRange[Float32, prod(self.columns)], 16]
            x: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(operands.x.layout)], 1024]
            weight: cute.struct.Align[
                cute.struct.MemRange[dtype, cute.cosize(operands.weight.layout)], 1024
            ]

        self.storage = SharedStorage
        self.kernel(
            operands.x.copy,
            operands.x.tensor,
            operands.weight.copy,
            operands.weight.tensor,
            bias,
            residual,
            x_scale,
            w_scale,
            out,
            group,
            operands.x.layout,
            operands.weight.layout,
        ).launch(
            grid=(blocks, 1, 1),
            block=(self.threads, 1, 1),
            cluster=(tile.cluster_rows, 1, 1) if tile.cluster_rows > 1 else None,
            stream=stream,
            min_blocks_per_mp=1,
            preferred_smem_carveout=100,
        )

    @cute.kernel
    def kernel(
        self,
        x_copy: cute.CopyAtom,
        x_tma: cute.Tensor,
        w_copy: cute.CopyAtom,
        w_tma: cute.Tensor,
        bias: cute.Tensor,
        residual: cute.Tensor | None,
        x_scale: cute.Tensor | None,
        w_scale: cute.Tensor | None,
        out: cute.Tensor,
        group: Int32,
        x_layout: cute.ComposedLayout,
        w_layout: cute.ComposedLayout,
    ):
        """A block: its shared memory and barriers, then each warp goes its way.

        `load_steps` and `compute_products` get `shared`: stages of `x` and `weight` in shared
        memory, and `columns`, float32 [columns, 1 or 2, 2, warp groups], see
        `linear_columns.keep_columns`; `ring`: the barriers of the stages; `schedule`, see
        `linear_places.schedule_of`; `tensors`, as the launch has them.
        """
        variant, tile = self.variant, self.variant.tile
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        if warp == 0:
            cpasync.prefetch_descriptor(x_copy)
            cpasync.prefetch_descriptor(w_copy)
        storage = SmemAllocator().allocate(self.storage)
        shared = SimpleNamespace(
            x=storage.x.get_tensor(x_layout.outer, swizzle=x_layout.inner),
            weight=storage.weight.get_tensor(w_layout.outer, swizzle=w_layout.inner),
            columns=storage.columns.get_tensor(cute.make_layout(self.columns)),
        )
        ring = _ring_of(variant, storage.barriers.data_ptr(), self.num_bytes)
        tensors = SimpleNamespace(
            bias=bias, residual=residual, x_scale=x_scale, w_scale=w_scale, out=out
        )
        schedule = schedule_of(
            variant, Int32(out.shape[0]), Int32(out.shape[1]), Int32(x_tma.shape[1]), group
        )
        loads = SimpleNamespace(x=(x_copy, x_tma), weight=(w_copy, w_tma))
        cute.arch.mbarrier_init_fence()
        if cutlass.const_expr(tile.cluster_rows > 1):
            # Others of the cluster signal these barriers.
            cute.arch.cluster_arrive()
            cute.arch.cluster_wait()
        else:
            cute.arch.sync_threads()

        if warp < WARP_GROUP // WARP:
            cute.arch.setmaxregister_decrease(self.registers[0])
            if warp == 0:
                load_steps(variant, loads, shared, ring, schedule)
        else:
            cute.arch.setmaxregister_increase(self.registers[1])
            compute_products(variant, shared, tensors, ring, schedule)


def _ring_of(variant, barriers, num_bytes):
    """Stages that TMA fills, `num_bytes` each, and every warp that computes from one gives back, to
    all blocks that fill it."""
    tile = variant.tile
    warps = WARP_GROUP // WARP * (GROUPS if tile.together else 1)
    return pipeline.PipelineTmaAsync.create(
        barrier_storage=barriers,
        num_stages=tile.stages,
        producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, 1),
        consumer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, warps * tile.cluster_rows),
        tx_count=num_bytes,
        cta_layout_vmnk=cute.make_layout((1, tile.cluster_rows, 1, 1)),
        defer_sync=True,
    )
