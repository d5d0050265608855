"""Values in pages of eight bits that nobody may see: they lie by place, see `fp8_layout`."""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP
from genrec_kernels.fp8_layout import KEY_OF_PLACE, PERMUTED


@cute.jit
def hide_foreign_places(variant: cutlass.Constexpr, sv, stage, first_key, num_keys, thread):
    """Zero the values of a tile that lie past the keys, by one warp group.

    They belong to another, or to nobody. Their weight is 0, but 0 times NaN would let one
    request's NaN into another's output.

    Args:
        sv: tiles of values [width, keys, stages] in shared memory.
        stage: of the tile.
        first_key: of the tile.
        num_keys: of the request.
        thread: of the warp group.
    """
    rest = num_keys - first_key
    if rest < variant.keys:
        first = cutlass.max(rest, 0) // PERMUTED
        count = (variant.keys // PERMUTED - first) * variant.width
        for i in cutlass.range(thread, count, WARP_GROUP):
            chunk = first + i // variant.width
            tile = cute.local_tile(sv, (1, PERMUTED, 1), (i % variant.width, chunk, stage))
            here = cute.make_tensor(tile.iterator, cute.make_layout(PERMUTED))
            numbers = cute.make_rmem_tensor(cute.make_layout(PERMUTED), sv.element_type)
            cute.autovec_copy(here, numbers)
            words = cute.recast_tensor(numbers, Int32)
            seen = rest - chunk * PERMUTED
            for word in cutlass.range_constexpr(PERMUTED // 4):
                kept = Int32(0)
                for byte in cutlass.range_constexpr(4):
                    if KEY_OF_PLACE[4 * word + byte] < seen:
                        kept |= Int32((0xFF << 8 * byte) - (1 << 32) * (byte == 3))
                words[word] &= kept
            cute.autovec_copy(numbers, here)
        # The tensor cores read shared memory through another proxy than stores write it.
        cute.arch.fence_proxy("async.shared", space="cta")
        warp_group = cute.arch.make_warp_uniform(cute.arch.warp_idx() // (WARP_GROUP // WARP))
        cute.arch.barrier(barrier_id=warp_group, number_of_threads=WARP_GROUP)
