"""Forward of jagged HSTU attention for Hopper (sm_90a), in CuTe DSL.

One warp group loads, two or three compute, 64 query rows each. Query, key and value tiles come
through the tensor memory accelerator (TMA) into rings in shared memory; products run on WGMMA.
A block stays on its multiprocessor and claims tiles of rows from a counter, longest work first,
so the loads of the next tile start while this one is still computed.

There is no softmax: weights ``silu(q·kᵀ·alpha) / N`` add up, so a tile needs no maximum, no sum
and no rescaling. While the tensor cores add ``P·V`` of one tile of keys, the warps apply SiLU to
the scores of the next.

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head, N keys of a
tile.
"""

# mypy: ignore-errors
# The DSL traces these functions; Python's types say nothing about them.

from types import SimpleNamespace

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32
from cutlass.memory import SmemAllocator

from genrec_kernels.cutlass.block_sizes import REGISTERS, TILE_WORDS, WARP, WARP_GROUP
from genrec_kernels.cutlass.compute_warps import compute_tiles
from genrec_kernels.cutlass.load_warp import load_tiles
from genrec_kernels.cutlass.rings import rings_of
from genrec_kernels.cutlass.tma_operands import tma_operands
from genrec_kernels.cutlass.variants import AttentionVariant


class HSTUForwardSm90:
    """`genrec_kernels.hstu_attention`'s forward, of one variant."""

    def __init__(self, variant: AttentionVariant):
        self.variant = variant
        self.threads = WARP_GROUP * (variant.groups + 1)
        self.registers = REGISTERS[variant.groups, variant.resident]

    @cute.jit
    def __call__(
        self,
        q: cute.Tensor,
        k: cute.Tensor,
        v: cute.Tensor,
        out: cute.Tensor,
        offsets: cute.Tensor,
        histories: cute.Tensor,
        limits: cute.Tensor,
        claimed: cute.Tensor,
        bias_tiles: cute.Tensor | None,
        qk_scale: cute.Tensor | None,
        v_scale: cute.Tensor | None,
        blocks: Int32,
        group: Int32,
        window: Int32,
        most_tiles: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        stream: cuda.CUstream,
    ):
        """Launch on `blocks` blocks.

        Args:
            q, k, v: [R, H, D], the last axis contiguous, the others' strides multiples of 16 bytes;
                with fp8 v is [H, D, P], see `fp8_layout`.
            out: [R, H, D], contiguous.
            offsets: int64 [B + 1], first row of each sequence.
            histories: int64 [B], history rows of each sequence.
            limits: int64 [R], as `key_limits` of the op.
            claimed: int32 [1], zero, and zero again afterwards: tiles that blocks have taken.
            bias_tiles: int32 [.., WORDS], of variants with a bias, see `bias_tiles`.
            qk_scale, v_scale: of fp8, float32 [H]: what a head's products of queries and keys, and
                its values, are times.
            blocks: how many run.
            group: sequences that run side by side, for the L2 cache: at most 32.
            window: read only by variants that have one.
            most_tiles: of the longest sequence's bias; read only by variants with one.
            half_alpha, inverse_norm: alpha / 2 and 1 / N.
        """
        dtype, stages = q.element_type, self.variant.stages
        q = cute.make_tensor(q.iterator, cute.select(q.layout, mode=[0, 2, 1]))
        k = cute.make_tensor(k.iterator, cute.select(k.layout, mode=[0, 2, 1]))
        modes = [1, 2, 0] if self.variant.fp8 else [2, 0, 1]
        v = cute.make_tensor(v.iterator, cute.select(v.layout, mode=modes))
        tiles = tma_operands(self.variant, q, k, v)
        self.num_bytes = SimpleNamespace(
            q=tiles.q.num_bytes, k=tiles.k.num_bytes, v=tiles.v.num_bytes
        )

        @cute.struct
        class SharedStorage:
            q_barriers: cute.struct.MemRange[cutlass.Int64, 2]
            k_barriers: cute.struct.MemRange[cutlass.Int64, 2 * stages]
            v_barriers: cute.struct.MemRange[cutlass.Int64, 2 * stages]
            work_barriers: cute.struct.MemRange[cutlass.Int64, 4]
            work: cute.struct.MemRange[Int32, 2 * TILE_WORDS]
            q: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(tiles.q.layout)], 1024]
            k: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(tiles.k.layout)], 1024]
            v: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(tiles.v.layout)], 1024]

        self.storage = SharedStorage
        self.kernel(
            tiles.q.copy,
            tiles.q.tensor,
            tiles.k.copy,
            tiles.k.tensor,
            tiles.v.copy,
            tiles.v.tensor,
            out,
            offsets,
            histories,
            limits,
            claimed,
            bias_tiles,
            qk_scale,
            v_scale,
            group,
            window,
            most_tiles,
            half_alpha,
            inverse_norm,
            tiles.q.layout,
            tiles.k.layout,
            tiles.v.layout,
        ).launch(
            grid=(blocks, 1, 1),
            block=(self.threads, 1, 1),
            stream=stream,
            min_blocks_per_mp=self.variant.resident,
            preferred_smem_carveout=100,
        )

    @cute.kernel
    def kernel(
        self,
        q_copy: cute.CopyAtom,
        q_tma: cute.Tensor,
        k_copy: cute.CopyAtom,
        k_tma: cute.Tensor,
        v_copy: cute.CopyAtom,
        v_tma: cute.Tensor,
        out: cute.Tensor,
        offsets: cute.Tensor,
        histories: cute.Tensor,
        limits: cute.Tensor,
        claimed: cute.Tensor,
        bias_tiles: cute.Tensor | None,
        qk_scale: cute.Tensor | None,
        v_scale: cute.Tensor | None,
        group: Int32,
        window: Int32,
        most_tiles: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        q_layout: cute.ComposedLayout,
        k_layout: cute.ComposedLayout,
        v_layout: cute.ComposedLayout,
    ):
        """A block: its shared memory and barriers, then each warp goes its way.

        `load_tiles` and `compute_tiles` get `shared`: tiles of q, k and v in shared memory, and
        `work`, int32 [TILE_WORDS, 2], what the loading warp tells of two tiles; `rings`: the
        barriers of each of these; `tensors` and `scalars`, as the launch has them.
        """
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = SmemAllocator().allocate(self.storage)
        shared = SimpleNamespace(
            q=storage.q.get_tensor(q_layout.outer, swizzle=q_layout.inner),
            k=storage.k.get_tensor(k_layout.outer, swizzle=k_layout.inner),
            v=storage.v.get_tensor(v_layout.outer, swizzle=v_layout.inner),
            work=storage.work.get_tensor(cute.make_layout((TILE_WORDS, 2))),
        )
        rings = rings_of(self.variant, storage, self.num_bytes)
        tensors = SimpleNamespace(
            out=out,
            offsets=offsets,
            histories=histories,
            limits=limits,
            claimed=claimed,
            bias_tiles=bias_tiles,
            qk_scale=qk_scale,
            v_scale=v_scale,
        )
        scalars = SimpleNamespace(
            group=group,
            window=window,
            most_tiles=most_tiles,
            half_alpha=half_alpha,
            inverse_norm=inverse_norm,
        )
        loads = SimpleNamespace(q=(q_copy, q_tma), k=(k_copy, k_tma), v=(v_copy, v_tma))
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        if warp < WARP_GROUP // WARP:
            cute.arch.setmaxregister_decrease(self.registers[0])
            if warp == 0:
                load_tiles(self.variant, loads, shared, tensors, scalars, rings)
        else:
            cute.arch.setmaxregister_increase(self.registers[1])
            compute_tiles(self.variant, shared, tensors, scalars, rings)
