"""HSTU attention of new rows over paged keys and values for Hopper (sm_90a), in CuTe DSL.

As `hstu_forward_sm90`, with keys and values from the pages of vLLM's cache: TMA reads rows of a
page as a box of a tensor of four axes, so a page's number is a coordinate. Rows see no other new
row, only pages and themselves; what a row gets from itself is added last, without tensor cores. The
keys of a request may be cut into parts that different blocks take, for few requests on many
multiprocessors.

Letters in shapes: R new rows of all requests, B requests, P pages of the cache, S rows a page,
M pages of the longest request, H heads, D width of a head.
"""

# mypy: ignore-errors
# The DSL traces these functions; Python's types say nothing about them.

from types import SimpleNamespace

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float16, Float32, Int32, const_expr
from cutlass.memory import SmemAllocator

from genrec_kernels.cutlass.block_sizes import REGISTERS, TILE_WORDS, WARP, WARP_GROUP
from genrec_kernels.cutlass.paged_compute_warps import compute_paged_tiles
from genrec_kernels.cutlass.paged_load_warp import load_paged_tiles
from genrec_kernels.cutlass.rings import rings_of
from genrec_kernels.cutlass.tma_operands import tma_operands
from genrec_kernels.cutlass.variants import AttentionVariant


class PagedHSTUSm90:
    """`genrec_kernels.paged_hstu_attention`, of one variant."""

    def __init__(self, variant: AttentionVariant):
        self.variant = variant
        self.threads = WARP_GROUP * (variant.groups + 1)
        self.registers = REGISTERS[variant.groups, variant.resident]

    @cute.jit
    def __call__(
        self,
        queries: cute.Tensor,
        q: cute.Tensor,
        k: cute.Tensor,
        v: cute.Tensor,
        k_pages: cute.Tensor,
        v_pages: cute.Tensor,
        out: cute.Tensor,
        partial: cute.Tensor,
        offsets: cute.Tensor,
        limits: cute.Tensor,
        page_table: cute.Tensor,
        claimed: cute.Tensor,
        bias: cute.Tensor | None,
        own_bias: cute.Tensor | None,
        v_scale: cute.Tensor | None,
        blocks: Int32,
        group: Int32,
        splits: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        own_factor: Float32 | None,
        stream: cuda.CUstream,
    ):
        """Launch on `blocks` blocks.

        Args:
            queries: [R, H, D], the last axis contiguous, the others' strides multiples of 16 bytes:
                q as the tensor cores take it.
            q, k, v: [R, H, D], likewise, of 16 bits.
            k_pages, v_pages: [P, H, S, D], likewise; S is a multiple of `page_keys`. With fp8
                v_pages is [P, H, D, S], see `fp8_pages`.
            out: [R, H, D], contiguous.
            partial: float32 [parts · R · H, D], written where there is more than one part.
            offsets: int32 [B + 1], first new row of each request.
            limits: int64 [R], keys that a row sees.
            page_table: int32 [B, M].
            claimed: int32 [1], zero, and zero again afterwards: tiles that blocks have taken.
            bias, own_bias: of variants with a bias: float32, with fp8 float16, [N, K], and float32
                [1], times 1 / alpha, see `genrec_kernels.paged_bias`.
            v_scale: of fp8, float32 [H]: what a head's values in the pages are times.
            blocks: how many run.
            group: requests that run side by side: at most 32.
            splits: parts that the keys are cut into.
            half_alpha, inverse_norm: alpha / 2 and 1 / N; alpha is of products of queries and
                keys as they are in memory.
            own_factor: of fp8: what products of a row's q and k are times beside those.
        """
        dtype, variant = queries.element_type, self.variant
        stages = variant.stages
        value_modes = [2, 3, 1, 0] if variant.fp8 else [3, 2, 1, 0]
        tiles = tma_operands(
            variant,
            cute.make_tensor(queries.iterator, cute.select(queries.layout, mode=[0, 2, 1])),
            cute.make_tensor(k_pages.iterator, cute.select(k_pages.layout, mode=[2, 3, 1, 0])),
            cute.make_tensor(v_pages.iterator, cute.select(v_pages.layout, mode=value_modes)),
        )
        # A tile's bias comes with its keys.
        bias_dtype = Float16 if variant.fp8 else Float32
        tile_bias = variant.keys if variant.same_bias else 0
        bias_bytes = tile_bias * bias_dtype.width // 8
        self.num_bytes = SimpleNamespace(
            q=tiles.q.num_bytes, k=tiles.k.num_bytes + bias_bytes, v=tiles.v.num_bytes
        )

        @cute.struct
        class SharedStorage:
            q_barriers: cute.struct.MemRange[cutlass.Int64, 2]
            k_barriers: cute.struct.MemRange[cutlass.Int64, 2 * stages]
            v_barriers: cute.struct.MemRange[cutlass.Int64, 2 * stages]
            work_barriers: cute.struct.MemRange[cutlass.Int64, 4]
            work: cute.struct.MemRange[Int32, 2 * TILE_WORDS]
            bias: cute.struct.Align[cute.struct.MemRange[bias_dtype, tile_bias * stages], 128]
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
            q,
            k,
            v,
            out,
            partial,
            offsets,
            limits,
            page_table,
            claimed,
            bias,
            own_bias,
            v_scale,
            group,
            splits,
            half_alpha,
            inverse_norm,
            own_factor,
            tiles.q.layout,
            tiles.k.layout,
            tiles.v.layout,
        ).launch(
            grid=(blocks, 1, 1),
            block=(self.threads, 1, 1),
            stream=stream,
            min_blocks_per_mp=variant.resident,
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
        q: cute.Tensor,
        k: cute.Tensor,
        v: cute.Tensor,
        out: cute.Tensor,
        partial: cute.Tensor,
        offsets: cute.Tensor,
        limits: cute.Tensor,
        page_table: cute.Tensor,
        claimed: cute.Tensor,
        bias: cute.Tensor | None,
        own_bias: cute.Tensor | None,
        v_scale: cute.Tensor | None,
        group: Int32,
        splits: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        own_factor: Float32 | None,
        q_layout: cute.ComposedLayout,
        k_layout: cute.ComposedLayout,
        v_layout: cute.ComposedLayout,
    ):
        """A block: its shared memory and barriers, then each warp goes its way.

        `load_paged_tiles` and `compute_paged_tiles` get `shared`: tiles of q, k and v in shared
        memory, with `same_bias` of the bias too, and `work`, int32 [TILE_WORDS, 2], what the
        loading warp tells of two tiles; `rings`: the barriers of each of these; `tensors` and
        `scalars`, as the launch has them.
        """
        variant = self.variant
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = SmemAllocator().allocate(self.storage)
        bias_tile = None
        if const_expr(variant.same_bias):
            bias_tile = storage.bias.get_tensor(cute.make_layout((variant.keys, variant.stages)))
        shared = SimpleNamespace(
            q=storage.q.get_tensor(q_layout.outer, swizzle=q_layout.inner),
            k=storage.k.get_tensor(k_layout.outer, swizzle=k_layout.inner),
            v=storage.v.get_tensor(v_layout.outer, swizzle=v_layout.inner),
            bias=bias_tile,
            work=storage.work.get_tensor(cute.make_layout((TILE_WORDS, 2))),
        )
        rings = rings_of(variant, storage, self.num_bytes)
        tensors = SimpleNamespace(
            q=q,
            k=k,
            v=v,
            out=out,
            partial=partial,
            offsets=offsets,
            limits=limits,
            page_table=page_table,
            claimed=claimed,
            bias=bias,
            own_bias=own_bias,
            v_scale=v_scale,
        )
        scalars = SimpleNamespace(
            group=group,
            splits=splits,
            half_alpha=half_alpha,
            inverse_norm=inverse_norm,
            own_factor=own_factor,
        )
        loads = SimpleNamespace(q=(q_copy, q_tma), k=(k_copy, k_tma), v=(v_copy, v_tma))
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        if warp < WARP_GROUP // WARP:
            cute.arch.setmaxregister_decrease(self.registers[0])
            if warp == 0:
                load_paged_tiles(variant, loads, shared, tensors, scalars, rings)
        else:
            cute.arch.setmaxregister_increase(self.registers[1])
            compute_paged_tiles(variant, shared, tensors, scalars, rings)
