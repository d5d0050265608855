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
from cutlass import Boolean, Float32, Int32, const_expr, pipeline
from cutlass.cute.nvgpu import OperandMajorMode, cpasync, warpgroup
from cutlass.memory import SmemAllocator
from cutlass.tensor_utils import LayoutEnum
from cutlass.utils import hopper_helpers as sm90

from genrec_kernels.cutlass.bias import fill_bias
from genrec_kernels.cutlass.key_tiles import key_tiles, limits_of_rows, tile_at, warp_group_steps
from genrec_kernels.cutlass.scores import masked_silu, silu, zero_rows
from genrec_kernels.cutlass.variants import GROUP_ROWS, AttentionVariant
from genrec_kernels.cutlass.work import find_tile, tiles_of_lane

WARP = 32
WARP_GROUP = 128
#: What the loading warp tells the computing ones of a tile of rows, and of its keys.
TILE_WORDS = 10
#: Registers that a thread of the loading warp group keeps, and of a computing one gets, by
#: computing groups of a block and blocks of a multiprocessor, which has 65,536.
_REGISTERS = {(1, 2): (56, 200), (1, 3): (24, 136), (2, 1): (24, 240), (3, 1): (32, 160)}


class HSTUForwardSm90:
    """`genrec_kernels.hstu_attention`'s forward, of one variant."""

    def __init__(self, variant: AttentionVariant):
        self.variant = variant
        self.keys = variant.keys
        self.groups = variant.groups
        self.rows = variant.rows
        self.stages = variant.stages
        self.threads = WARP_GROUP * (variant.groups + 1)
        self.registers = _REGISTERS[variant.groups, variant.resident]

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
        seconds: cute.Tensor | None,
        buckets: cute.Tensor | None,
        pairs: cute.Tensor | None,
        cells: cute.Tensor | None,
        blocks: Int32,
        group: Int32,
        window: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        stream: cuda.CUstream,
    ):
        """Launch on `blocks` blocks.

        Args:
            q, k, v: [R, H, D], the last axis contiguous, the others' strides multiples of 16 bytes.
            out: [R, H, D], contiguous.
            offsets: int64 [B + 1], first row of each sequence.
            histories: int64 [B], history rows of each sequence.
            limits: int64 [R], as `key_limits` of the op.
            claimed: int32 [1], zero, and zero again afterwards: tiles that blocks have taken.
            seconds, buckets, pairs, cells: of variants with a bias, see `bias.fill_bias`.
            blocks: how many run.
            group: sequences that run side by side, for the L2 cache: at most 32.
            window: read only by variants that have one.
            half_alpha, inverse_norm: alpha / 2 and 1 / N.
        """
        dtype = q.element_type
        width = self.variant.width
        q = cute.make_tensor(q.iterator, cute.select(q.layout, mode=[0, 2, 1]))
        k = cute.make_tensor(k.iterator, cute.select(k.layout, mode=[0, 2, 1]))
        v = cute.make_tensor(v.iterator, cute.select(v.layout, mode=[2, 0, 1]))
        row_major, column_major = LayoutEnum.ROW_MAJOR, LayoutEnum.COL_MAJOR
        q_layout = sm90.make_smem_layout_a(row_major, (self.rows, self.keys, width), dtype, 1)
        k_layout = sm90.make_smem_layout_b(
            row_major, (self.rows, self.keys, width), dtype, self.stages
        )
        v_layout = sm90.make_smem_layout_b(
            column_major, (self.rows, width, self.keys), dtype, self.stages
        )
        load = cpasync.CopyBulkTensorTileG2SOp()
        one = (None, None, 0)
        q_copy, q_tma = cpasync.make_tiled_tma_atom(
            load, q, cute.slice_(q_layout, one), (self.rows, width)
        )
        k_copy, k_tma = cpasync.make_tiled_tma_atom(
            load, k, cute.slice_(k_layout, one), (self.keys, width)
        )
        v_copy, v_tma = cpasync.make_tiled_tma_atom(
            load, v, cute.slice_(v_layout, one), (width, self.keys)
        )
        self.q_bytes = cute.size_in_bytes(dtype, cute.slice_(q_layout, one))
        self.k_bytes = cute.size_in_bytes(dtype, cute.slice_(k_layout, one))
        self.v_bytes = cute.size_in_bytes(dtype, cute.slice_(v_layout, one))

        @cute.struct
        class SharedStorage:
            q_barriers: cute.struct.MemRange[cutlass.Int64, 2]
            k_barriers: cute.struct.MemRange[cutlass.Int64, 2 * self.stages]
            v_barriers: cute.struct.MemRange[cutlass.Int64, 2 * self.stages]
            work_barriers: cute.struct.MemRange[cutlass.Int64, 4]
            work: cute.struct.MemRange[Int32, 2 * TILE_WORDS]
            q: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(q_layout)], 1024]
            k: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(k_layout)], 1024]
            v: cute.struct.Align[cute.struct.MemRange[dtype, cute.cosize(v_layout)], 1024]

        self.storage = SharedStorage
        self.kernel(
            q_copy,
            q_tma,
            k_copy,
            k_tma,
            v_copy,
            v_tma,
            out,
            offsets,
            histories,
            limits,
            claimed,
            seconds,
            buckets,
            pairs,
            cells,
            group,
            window,
            half_alpha,
            inverse_norm,
            q_layout,
            k_layout,
            v_layout,
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
        seconds: cute.Tensor | None,
        buckets: cute.Tensor | None,
        pairs: cute.Tensor | None,
        cells: cute.Tensor | None,
        group: Int32,
        window: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        q_layout: cute.ComposedLayout,
        k_layout: cute.ComposedLayout,
        v_layout: cute.ComposedLayout,
    ):
        """A block: its shared memory and barriers, then each warp goes its way."""
        warp = cute.arch.make_warp_uniform(cute.arch.warp_idx())
        storage = SmemAllocator().allocate(self.storage)
        sq = storage.q.get_tensor(q_layout.outer, swizzle=q_layout.inner)
        sk = storage.k.get_tensor(k_layout.outer, swizzle=k_layout.inner)
        sv = storage.v.get_tensor(v_layout.outer, swizzle=v_layout.inner)
        work = storage.work.get_tensor(cute.make_layout((TILE_WORDS, 2)))

        q_ring = self._ring(storage.q_barriers.data_ptr(), 1, self.q_bytes)
        k_ring = self._ring(storage.k_barriers.data_ptr(), self.stages, self.k_bytes)
        v_ring = self._ring(storage.v_barriers.data_ptr(), self.stages, self.v_bytes)
        work_ring = pipeline.PipelineAsync.create(
            barrier_storage=storage.work_barriers.data_ptr(),
            num_stages=2,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, 1),
            consumer_group=pipeline.CooperativeGroup(
                pipeline.Agent.Thread, self.groups * WARP_GROUP
            ),
            defer_sync=True,
        )
        cute.arch.mbarrier_init_fence()
        cute.arch.sync_threads()

        if warp < WARP_GROUP // WARP:
            cute.arch.setmaxregister_decrease(self.registers[0])
            if warp == 0:
                self.load(
                    q_copy,
                    q_tma,
                    k_copy,
                    k_tma,
                    v_copy,
                    v_tma,
                    sq,
                    sk,
                    sv,
                    work,
                    offsets,
                    histories,
                    limits,
                    claimed,
                    group,
                    window,
                    q_ring,
                    k_ring,
                    v_ring,
                    work_ring,
                )
        else:
            cute.arch.setmaxregister_increase(self.registers[1])
            tables = SimpleNamespace(seconds=seconds, buckets=buckets, pairs=pairs, cells=cells)
            self.compute(
                tables,
                sq,
                sk,
                sv,
                work,
                out,
                limits,
                window,
                half_alpha,
                inverse_norm,
                q_ring,
                k_ring,
                v_ring,
                work_ring,
            )

    def _product_of(self, dtype, columns, b_major, accumulate):
        """Products of all computing warp groups, by 64 rows each; the second's operand A is in
        registers."""
        first = b_major == OperandMajorMode.K
        source = warpgroup.OperandSource
        mma = sm90.make_trivial_tiled_mma(
            dtype,
            dtype,
            OperandMajorMode.K,
            b_major,
            Float32,
            (self.groups, 1, 1),
            (GROUP_ROWS, columns),
            source.SMEM if first else source.RMEM,
        )
        mma.set(warpgroup.Field.ACCUMULATE, accumulate)
        return mma

    def _ring(self, barriers, stages, num_bytes):
        """Slots that TMA fills and every computing warp gives back."""
        return pipeline.PipelineTmaAsync.create(
            barrier_storage=barriers,
            num_stages=stages,
            producer_group=pipeline.CooperativeGroup(pipeline.Agent.Thread, 1),
            consumer_group=pipeline.CooperativeGroup(
                pipeline.Agent.Thread, self.groups * (WARP_GROUP // WARP)
            ),
            tx_count=num_bytes,
            defer_sync=True,
        )

    @cute.jit
    def load(
        self,
        q_copy: cute.CopyAtom,
        q_tma: cute.Tensor,
        k_copy: cute.CopyAtom,
        k_tma: cute.Tensor,
        v_copy: cute.CopyAtom,
        v_tma: cute.Tensor,
        sq: cute.Tensor,
        sk: cute.Tensor,
        sv: cute.Tensor,
        work: cute.Tensor,
        offsets: cute.Tensor,
        histories: cute.Tensor,
        limits: cute.Tensor,
        claimed: cute.Tensor,
        group: Int32,
        window: Int32,
        q_ring: pipeline.PipelineTmaAsync,
        k_ring: pipeline.PipelineTmaAsync,
        v_ring: pipeline.PipelineTmaAsync,
        work_ring: pipeline.PipelineAsync,
    ):
        """What the loading warp does: claim tiles, tell the computing warps, bring their rows."""
        width = self.variant.width
        heads = Int32(q_tma.shape[2])
        lane = cute.arch.lane_idx()
        blocks = cute.arch.grid_dim()[0]
        q_put = q_ring.make_producer()
        k_put = k_ring.make_producer()
        v_put = v_ring.make_producer()
        work_put = work_ring.make_producer()
        for copy in (q_copy, k_copy, v_copy):
            cpasync.prefetch_descriptor(copy)

        first_sequence = Int32(0)
        tiles = tiles_of_lane(offsets, first_sequence, group, self.rows)
        level = cute.arch.warp_redux_sync(tiles, "max") - 1
        passed = Int32(0)
        index = Int32(cute.arch.block_idx()[0])
        claim = Int32(-1)
        running = Boolean(True)
        while running:
            sequence, head, row_tile, first_sequence, tiles, level, passed = find_tile(
                index, offsets, heads, group, first_sequence, tiles, level, passed, self.rows
            )
            running = sequence >= 0
            start = Int32(-1)
            num_rows = Int32(0)
            num_history = Int32(0)
            first_row = row_tile * self.rows
            own_begin, own_end, begin, end = Int32(0), Int32(0), Int32(0), Int32(0)
            if running:
                start = Int32(offsets[sequence])
                num_rows = Int32(offsets[sequence + 1]) - start
                num_history = Int32(histories[sequence])
                least, most = limits_of_rows(
                    limits, start, first_row, num_rows, num_history, self.rows
                )
                own_begin, own_end, begin, end = key_tiles(
                    first_row,
                    num_rows,
                    num_history,
                    least,
                    most,
                    window,
                    self.rows,
                    self.keys,
                    self.variant.window,
                )
            slot = work_put.acquire_and_advance()
            if lane == 0:
                words = (
                    *(start, num_rows, num_history, head, first_row),
                    *(own_begin, own_end, begin, end, sequence),
                )
                for i in cutlass.range_constexpr(TILE_WORDS):
                    work[i, slot.index] = words[i]
                slot.commit()
            if running:
                steps = own_end - own_begin + end - begin

                q_rows = cute.domain_offset((start + first_row, 0), q_tma[None, None, head])
                gq = cute.local_tile(q_rows, (self.rows, width), (0, 0))
                k_rows = cute.domain_offset((start, 0), k_tma[None, None, head])
                gk = cute.local_tile(k_rows, (self.keys, width), (None, 0))
                v_rows = cute.domain_offset((0, start), v_tma[None, None, head])
                gv = cute.local_tile(v_rows, (width, self.keys), (0, None))
                tqs, tqg = _tma_views(q_copy, sq, gq)
                tks, tkg = _tma_views(k_copy, sk, gk)
                tvs, tvg = _tma_views(v_copy, sv, gv)

                place = q_put.acquire_and_advance()
                cute.copy(q_copy, tqg, tqs[None, place.index], tma_bar_ptr=place.barrier)
                # Values of a tile are needed after the keys of the next, so they come in that
                # order.
                previous = Int32(0)
                for step in cutlass.range(steps, unroll=1):
                    tile = tile_at(step, own_begin, own_end, end)
                    place = k_put.acquire_and_advance()
                    cute.copy(
                        k_copy, tkg[None, tile], tks[None, place.index], tma_bar_ptr=place.barrier
                    )
                    if step > 0:
                        place = v_put.acquire_and_advance()
                        cute.copy(
                            v_copy,
                            tvg[None, previous],
                            tvs[None, place.index],
                            tma_bar_ptr=place.barrier,
                        )
                    previous = tile
                place = v_put.acquire_and_advance()
                cute.copy(
                    v_copy, tvg[None, previous], tvs[None, place.index], tma_bar_ptr=place.barrier
                )
                if lane == 0:
                    claim = cute.arch.atomic_add(claimed.iterator.llvm_ptr, Int32(1))
                claim = cute.arch.shuffle_sync(claim, 0)
                index = claim + blocks
        # Every block that had work claims once in vain, so there are as many claims as tiles.
        if lane == 0 and claim == passed - 1:
            claimed[0] = Int32(0)
        # A block must not end while others may still signal its barriers.
        q_put.tail()
        k_put.tail()
        v_put.tail()

    @cute.jit
    def compute(
        self,
        tables,
        sq: cute.Tensor,
        sk: cute.Tensor,
        sv: cute.Tensor,
        work: cute.Tensor,
        out: cute.Tensor,
        limits: cute.Tensor,
        window: Int32,
        half_alpha: Float32,
        inverse_norm: Float32,
        q_ring: pipeline.PipelineTmaAsync,
        k_ring: pipeline.PipelineTmaAsync,
        v_ring: pipeline.PipelineTmaAsync,
        work_ring: pipeline.PipelineAsync,
    ):
        """What a computing warp group does: 64 rows of each tile that the block claims."""
        dtype = sq.element_type
        thread, _, _ = cute.arch.thread_idx()
        thread = thread - WARP_GROUP
        warp_group = cute.arch.make_warp_uniform(thread // WARP_GROUP)
        thread = thread % WARP_GROUP

        # The flag that a product adds to its accumulator is set outside of loops.
        first_mma = self._product_of(dtype, self.keys, OperandMajorMode.K, self.variant.bias)
        next_mma = self._product_of(dtype, self.keys, OperandMajorMode.K, True)
        pv_mma = self._product_of(dtype, self.variant.width, OperandMajorMode.MN, True)
        # Operands in shared memory are descriptors that a whole warp group shares.
        qk_group = first_mma.get_slice(warp_group * WARP_GROUP)
        pv_group = pv_mma.get_slice(warp_group * WARP_GROUP)
        rq = qk_group.make_fragment_A(qk_group.partition_A(sq))
        rk = qk_group.make_fragment_B(qk_group.partition_B(sk))
        rv = pv_group.make_fragment_B(pv_group.partition_B(sv))
        scores_shape = qk_group.partition_shape_C((self.rows, self.keys))
        sums = pv_group.make_fragment_C(pv_group.partition_shape_C((self.rows, self.variant.width)))
        # The scores' registers in the order in which the second product reads its operand: the
        # same, so one is the other's view (PTX ISA, "wgmma: register fragments").
        weights = cute.make_rmem_tensor(
            cute.make_layout(((2, 2, 2), 1, self.keys // 16), stride=((1, 2, 4), 0, 8)), dtype
        )

        # Where this thread's scores are: rows `row` and `row + 8`, columns 8j + `column` + {0, 1}.
        row_of_thread = warp_group * GROUP_ROWS + thread // WARP * 16 + thread % WARP // 4
        column = thread % 4 * 2

        q_get = q_ring.make_consumer()
        k_get = k_ring.make_consumer()
        v_get = v_ring.make_consumer()
        work_get = work_ring.make_consumer()
        row_limits = cute.make_rmem_tensor(cute.make_layout(2), Int32)
        row_seconds = cute.make_rmem_tensor(cute.make_layout(2), Int32)

        running = Boolean(True)
        while running:
            slot = work_get.wait_and_advance()
            start = work[0, slot.index]
            num_rows = work[1, slot.index]
            num_history = work[2, slot.index]
            head = work[3, slot.index]
            first_row = work[4, slot.index]
            own_begin = work[5, slot.index]
            own_end = work[6, slot.index]
            begin = work[7, slot.index]
            end = work[8, slot.index]
            sequence = work[9, slot.index]
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
                    window,
                    own_begin,
                    own_end,
                    begin,
                    end,
                    GROUP_ROWS,
                    self.keys,
                    self.variant.window,
                )
                row = first_row + row_of_thread
                for i in cutlass.range_constexpr(2):
                    here = row + 8 * i
                    # Rows past the sequence are computed, but not stored.
                    row_limits[i] = num_history
                    row_seconds[i] = Int32(0)
                    if here < num_rows:
                        limit = Int32(limits[start + here])
                        row_limits[i] = cutlass.min(cutlass.min(limit, here), num_history)
                        if const_expr(self.variant.bias):
                            row_seconds[i] = tables.seconds[start + here]

                # What every step of this tile needs.
                tile = SimpleNamespace(
                    qk_group=qk_group,
                    scores_shape=scores_shape,
                    first_mma=first_mma,
                    next_mma=next_mma,
                    pv_mma=pv_mma,
                    rq=rq,
                    rk=rk,
                    rv=rv,
                    sv=sv,
                    sums=sums,
                    weights=weights,
                    row_limits=row_limits,
                    row=row,
                    column=column,
                    num_rows=num_rows,
                    thread=thread,
                    window=window,
                    half_alpha=half_alpha,
                    tables=tables,
                    sequence=sequence,
                    start=start,
                    group_row=group_row,
                    row_seconds=row_seconds,
                )
                q_place = q_get.wait_and_advance()
                sums.fill(0.0)
                for _ in cutlass.range(unseen, unroll=1):
                    place = k_get.wait_and_advance()
                    place.release()
                    place = v_get.wait_and_advance()
                    place.release()

                if unseen < steps:
                    # The first tile that is seen; it always needs a mask: it holds the last row.
                    first_key = self.keys * tile_at(unseen, own_begin, own_end, end)
                    scores = self._begin_scores(tile, first_key, True)
                    k_place = k_get.wait_and_advance()
                    warpgroup.fence()
                    _product(first_mma, next_mma, scores, rq, _stage(rk, k_place))
                    warpgroup.commit_group()
                    warpgroup.wait_group(0)
                    k_place.release()
                    self._weigh(tile, scores, first_key, True)
                    _round_into(weights, scores)

                    previous = first_key
                    for step in cutlass.range(unseen + 1, masked_end, unroll=1):
                        first_key = self.keys * tile_at(step, own_begin, own_end, end)
                        k_get, v_get = self._step(tile, k_get, v_get, first_key, previous, True)
                        previous = first_key
                    for step in cutlass.range(masked_end, full_end, unroll=1):
                        first_key = self.keys * tile_at(step, own_begin, own_end, end)
                        k_get, v_get = self._step(tile, k_get, v_get, first_key, previous, False)
                        previous = first_key
                    if const_expr(self.variant.window):
                        for step in cutlass.range(full_end, steps, unroll=1):
                            first_key = self.keys * tile_at(step, own_begin, own_end, end)
                            k_get, v_get = self._step(tile, k_get, v_get, first_key, previous, True)
                            previous = first_key
                    q_place.release()
                    v_place = v_get.wait_and_advance()
                    self.hide_foreign_rows(sv, v_place.index, previous, num_rows, thread)
                    warpgroup.fence()
                    _add_product(pv_mma, sums, weights, _stage(rv, v_place))
                    warpgroup.commit_group()
                    warpgroup.wait_group(0)
                    v_place.release()
                    self.store(sums, out, start, row, num_rows, head, column, inverse_norm, dtype)
                else:
                    q_place.release()

    def _step(self, tile, k_get, v_get, first_key, previous, masked):
        """Scores of one tile of keys, while the previous tile's values are added to the sums."""
        scores = self._begin_scores(tile, first_key, masked)
        k_place = k_get.wait_and_advance()
        warpgroup.fence()
        _product(tile.first_mma, tile.next_mma, scores, tile.rq, _stage(tile.rk, k_place))
        warpgroup.commit_group()
        v_place = v_get.wait_and_advance()
        if const_expr(masked):
            self.hide_foreign_rows(tile.sv, v_place.index, previous, tile.num_rows, tile.thread)
        warpgroup.fence()
        _add_product(tile.pv_mma, tile.sums, tile.weights, _stage(tile.rv, v_place))
        warpgroup.commit_group()
        warpgroup.wait_group(1)
        k_place.release()
        self._weigh(tile, scores, first_key, masked)
        warpgroup.wait_group(0)
        v_place.release()
        _round_into(tile.weights, scores)
        return k_get, v_get

    def _begin_scores(self, tile, first_key, masked):
        """Registers for the scores of a tile of keys; what the product adds to, if to anything."""
        scores = tile.qk_group.make_fragment_C(tile.scores_shape)
        if const_expr(self.variant.bias):
            fill_bias(
                scores,
                tile.tables,
                tile.sequence,
                tile.start,
                tile.num_rows,
                tile.group_row,
                first_key,
                tile.column,
                tile.row_limits,
                tile.row_seconds,
                GROUP_ROWS,
                self.keys,
                masked,
            )
        return scores

    def _weigh(self, tile, scores, first_key, masked):
        """SiLU of a tile's scores, in place."""
        if const_expr(masked):
            masked_silu(
                scores,
                tile.half_alpha,
                tile.row_limits,
                tile.row,
                first_key + tile.column,
                tile.window,
                self.variant.window,
            )
        else:
            silu(scores, tile.half_alpha)

    @cute.jit
    def hide_foreign_rows(self, sv, stage, first_key, num_rows, thread):
        """Zero the value rows of a tile that lie past the sequence.

        They belong to another, or to nobody. Their weight is 0, but 0 times NaN would let one
        sequence's NaN into another's output.
        """
        if first_key + self.keys > num_rows:
            zero_rows(sv, stage, num_rows - first_key, self.variant.width, self.keys, thread)
            # The tensor cores read shared memory through another proxy than stores write it.
            cute.arch.fence_proxy("async.shared", space="cta")
            warp_group = cute.arch.make_warp_uniform(cute.arch.warp_idx() // (WARP_GROUP // WARP))
            cute.arch.barrier(barrier_id=warp_group, number_of_threads=WARP_GROUP)

    @cute.jit
    def store(self, sums, out, start, row, num_rows, head, column, inverse_norm, dtype):
        """Write a thread's two rows, two neighbouring columns at a time."""
        pairs_out = cute.recast_tensor(out, Int32)
        rounded = cute.make_rmem_tensor(sums.layout, dtype)
        rounded.store((sums.load() * inverse_norm).to(dtype))
        pairs = cute.recast_tensor(rounded, Int32)
        for i in cutlass.range_constexpr(2):
            here = row + 8 * i
            if here < num_rows:
                for j in cutlass.range_constexpr(self.variant.width // 8):
                    pairs_out[start + here, head, 4 * j + column // 2] = pairs[i + 2 * j]


@cute.jit
def _product(first_mma, next_mma, acc, a, b):
    """``acc = a · b``, queued."""
    for block in cutlass.range_constexpr(cute.size(a, mode=[2])):
        mma = first_mma if block == 0 else next_mma
        cute.gemm(mma, acc, a[None, None, block, 0], b[None, None, block], acc)


@cute.jit
def _add_product(mma, acc, a, b):
    """``acc += a · b``, queued; `a` in registers."""
    for block in cutlass.range_constexpr(cute.size(a, mode=[2])):
        cute.gemm(mma, acc, a[None, None, block], b[None, None, block], acc)


@cute.jit
def _round_into(weights, scores):
    as_scores = cute.make_tensor(weights.iterator, scores.layout)
    as_scores.store(scores.load().to(weights.element_type))


def _stage(operand, place):
    """An operand's tile in a place of its ring."""
    return operand[None, None, None, place.index]


def _tma_views(copy, shared, tiles):
    """Shared and global side of TMA copies: a copy's elements first, then stages, or tiles."""
    return cpasync.tma_partition(
        copy, 0, cute.make_layout(1), cute.group_modes(shared, 0, 2), cute.group_modes(tiles, 0, 2)
    )
