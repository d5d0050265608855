"""Makes the tiles of a bias (`bias_tiles`), in CuTe DSL: each once, for all heads of a layer.

It uses no tensor core: sm_90a is what the package compiles for.
"""

# mypy: ignore-errors
# The DSL traces these functions; Python's types say nothing about them.

from types import SimpleNamespace

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from genrec_kernels.cutlass.bias import fill_bias
from genrec_kernels.cutlass.bias_tiles import EDGE, NUMBERS, PARTS
from genrec_kernels.cutlass.bias_vectors import first_vector, store_bias
from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP
from genrec_kernels.cutlass.key_tiles import limit_of, limits_of_rows


class BiasTilesSm90:
    """A warp group makes the tiles of some rows, one after the other."""

    #: Of shared memory: none.
    storage = None
    threads = WARP_GROUP

    @cute.jit
    def __call__(
        self,
        tiles: cute.Tensor,
        offsets: cute.Tensor,
        histories: cute.Tensor,
        limits: cute.Tensor,
        seconds: cute.Tensor,
        buckets: cute.Tensor,
        pairs: cute.Tensor,
        cells: cute.Tensor,
        blocks: Int32,
        edge: Int32,
        window: Int32,
        stream: cuda.CUstream,
    ):
        """Launch on `blocks` blocks: `PARTS` for each row of tiles.

        Args:
            tiles: int32 [.., WORDS], written: of scores that somebody may see.
            offsets, histories, limits, seconds, buckets, pairs, cells: as
                `hstu_forward_sm90.HSTUForwardSm90` has them.
            edge: rows of tiles of the longest sequence.
            window: rows see only their last keys, so many: tiles before these are left out.
        """
        self.kernel(
            tiles, offsets, histories, limits, seconds, buckets, pairs, cells, edge, window
        ).launch(grid=(blocks, 1, 1), block=(self.threads, 1, 1), stream=stream)

    @cute.kernel
    def kernel(
        self,
        tiles: cute.Tensor,
        offsets: cute.Tensor,
        histories: cute.Tensor,
        limits: cute.Tensor,
        seconds: cute.Tensor,
        buckets: cute.Tensor,
        pairs: cute.Tensor,
        cells: cute.Tensor,
        edge: Int32,
        window: Int32,
    ):
        """Every `PARTS`-th tile of a row of tiles. The longest rows come first."""
        thread, _, _ = cute.arch.thread_idx()
        block, _, _ = cute.arch.block_idx()
        num_sequences = Int32(cute.size(offsets)) - 1
        part = block % PARTS
        sequence = block // PARTS % num_sequences
        group_row = (edge - 1 - block // PARTS // num_sequences) * EDGE
        start = Int32(offsets[sequence])
        num_rows = Int32(offsets[sequence + 1]) - start
        if group_row < num_rows:
            num_history = Int32(histories[sequence])
            least, most = limits_of_rows(limits, start, group_row, num_rows, num_history, EDGE)
            row = group_row + thread // WARP * 16 + thread % WARP // 4
            row_limits = cute.make_rmem_tensor(cute.make_layout(2), Int32)
            row_seconds = cute.make_rmem_tensor(cute.make_layout(2), Int32)
            for i in cutlass.range_constexpr(2):
                here = cutlass.min(row + 8 * i, num_rows - 1)
                row_limits[i] = limit_of(limits, start, here, num_history)
                row_seconds[i] = seconds[start + here]
            tables = SimpleNamespace(seconds=seconds, buckets=buckets, pairs=pairs, cells=cells)
            scores = cute.make_rmem_tensor(cute.make_layout(NUMBERS), Float32)
            vector = first_vector(sequence, edge * (edge + 1) // 2, group_row, thread)
            own = group_row // EDGE
            for number in cutlass.range(part, own + 1, PARTS, unroll=1):
                first_key = number * EDGE
                in_window = first_key + EDGE > least - window
                # Candidates see their own keys beside history.
                if (first_key < most and in_window) or number == own:
                    fill_bias(
                        scores,
                        tables,
                        sequence,
                        start,
                        num_rows,
                        group_row,
                        first_key,
                        thread % 4 * 2,
                        row_limits,
                        row_seconds,
                    )
                    store_bias(scores, tiles, vector, first_key)
