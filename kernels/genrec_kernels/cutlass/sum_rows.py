"""A thread's sums from and to rows in global memory, 16 bytes at a time.

A thread sums up two rows, 8 apart: register ``c + 2·i + 4·j`` is row ``8·i``, column ``8·j + c``
from its first. Moved so, a row is many pieces of few bytes, which a block with one tile waits for;
so the four lanes that have a row exchange words (`exchange`).

Letters: R rows, H heads, D width of a head.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from genrec_kernels.cutlass.exchange import CHUNK, LANES, exchange, exchange_pairs
from genrec_kernels.cutlass.scores import weight_of


class SumRows:
    """The rows that a thread sums up.

    Args:
        width: D.
        start: first row of the sequence or request.
        row: the thread's first, from there.
        num_rows: of the sequence: those past it are neither read nor written.
        head: of the tile.
        quarter: the lane's place among the four that have its rows.
    """

    def __init__(self, width, start, row, num_rows, head, quarter):
        self.width, self.start, self.row, self.num_rows = width, start, row, num_rows
        self.head, self.quarter = head, quarter
        #: Times that the four lanes move 16 bytes of a row each.
        self.moves = width // (LANES * CHUNK)

    def chunks_of(self, x, i):
        """A row's chunks in x [R, H, D] of 16 bits, int32 [4] each."""
        line = x[self.start + cutlass.min(self.row + 8 * i, self.num_rows - 1), self.head, None]
        return [_chunk(line, LANES * move + self.quarter, CHUNK) for move in range(self.moves)]


@cute.jit
def add_own(rows, sums, tensors, half_alpha, own_bias, own_factor, sums_per_value):
    """What each row gets from itself, whose key and value are in no page, as the first of its sums.

    Args:
        rows: `SumRows`.
        tensors: has `q`, `k` and `v`, [R, H, D] of 16 bits.
        half_alpha, own_bias: see `PagedHSTUSm90`.
        own_factor: what products of `q` and `k` are times.
        sums_per_value: what the sums are times beside values.
    """
    dtype = tensors.q.element_type
    # All at once, to be waited for once.
    chunks = [[rows.chunks_of(x, i) for x in (tensors.q, tensors.k, tensors.v)] for i in range(2)]
    for i in cutlass.range_constexpr(2):
        q, k, v = chunks[i]
        score = Float32(0.0)
        for move in cutlass.range_constexpr(rows.moves):
            product = _wide(q[move], dtype) * _wide(k[move], dtype)
            score += product.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
        score += cute.arch.shuffle_sync_bfly(score, 1)
        score += cute.arch.shuffle_sync_bfly(score, 2)
        weight = weight_of(score * own_factor + own_bias, half_alpha) * sums_per_value
        for move in cutlass.range_constexpr(rows.moves):
            exchange(v[move], rows.quarter)
            values = cute.make_rmem_tensor(cute.make_layout(CHUNK), Float32)
            values.store(_wide(v[move], dtype))
            for j in cutlass.range_constexpr(LANES):
                for c in cutlass.range_constexpr(2):
                    sums[c + 2 * i + 4 * (LANES * move + j)] = weight * values[2 * j + c]


@cute.jit
def store_rows(variant: cutlass.Constexpr, rows, sums, out, inverse_norm):
    """Write the sums, times `inverse_norm`, to `out` [R, H, D] of 16 bits."""
    rounded = cute.make_rmem_tensor(sums.layout, out.element_type)
    rounded.store((sums.load() * inverse_norm).to(out.element_type))
    pairs = cute.recast_tensor(rounded, Int32)
    words = cute.make_rmem_tensor(cute.make_layout((LANES, rows.moves)), Int32)
    for i in cutlass.range_constexpr(2):
        for move in cutlass.range_constexpr(rows.moves):
            for j in cutlass.range_constexpr(LANES):
                words[j, move] = pairs[i + 2 * (LANES * move + j)]
            exchange(words[None, move], rows.quarter)
        here = rows.row + 8 * i
        if here < rows.num_rows:
            line = cute.recast_tensor(out[rows.start + here, rows.head, None], Int32)
            for move in cutlass.range_constexpr(rows.moves):
                place = cute.local_tile(line, (LANES,), (LANES * move + rows.quarter,))
                cute.autovec_copy(words[None, move], place)
        # The branch is over for all lanes: else ptxas keeps the tiles' places, which are the same
        # for a warp, in every lane's registers, and each product waits for them. In 16 bits it is
        # this that makes it do so.
        if const_expr(variant.fp8):
            cute.arch.sync_warp()


@cute.jit
def store_part_rows(rows, sums, partial, split, all_rows, heads, inverse_norm):
    """Write the sums of a part of the keys, times `inverse_norm`, to be added to those of others.

    Args:
        partial: float32 [parts · R · H, D].
        split: the part.
        all_rows, heads: R and H.
    """
    count = rows.width // 16
    numbers = cute.make_rmem_tensor(cute.make_layout((2, 2, count)), Float32)
    words = cute.recast_tensor(numbers, Int32)
    for i in cutlass.range_constexpr(2):
        for move in cutlass.range_constexpr(count):
            for j in cutlass.range_constexpr(2):
                for c in cutlass.range_constexpr(2):
                    number = sums[c + 2 * i + 4 * (2 * move + j)]
                    numbers[c, j, move] = number * inverse_norm
            exchange_pairs(words[None, None, move], rows.quarter)
        here = rows.row + 8 * i
        if here < rows.num_rows:
            at = (Int64(split) * all_rows + rows.start + here) * heads + rows.head
            line = cute.recast_tensor(partial[at, None], Int32)
            for move in cutlass.range_constexpr(count):
                # The even lane of two has the first eight columns of 16, the odd one the others.
                chunk = LANES * move + 2 * (rows.quarter % 2) + rows.quarter // 2
                place = cute.local_tile(line, (LANES,), (chunk,))
                cute.autovec_copy(
                    cute.make_tensor(words[None, None, move].iterator, cute.make_layout(LANES)),
                    place,
                )


def _chunk(line, chunk, size):
    found = cute.make_rmem_tensor(cute.make_layout(size), line.element_type)
    cute.autovec_copy(cute.local_tile(line, (size,), (chunk,)), found)
    return cute.recast_tensor(found, Int32)


def _wide(words, dtype):
    """float32 [8] of four words."""
    return cute.recast_tensor(words, dtype).load().to(Float32)
