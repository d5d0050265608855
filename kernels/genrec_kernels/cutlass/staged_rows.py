"""Rows between global memory and a thread's sums, by way of shared memory.

A thread sums up two rows, 8 apart, and of every 8 columns two neighbours. Moved so, a row is many
pieces of a few bytes, and so many instructions are what a block waits for where it has one tile.
Here a warp moves whole rows, 16 bytes a lane, and passes them on in shared memory of its own,
`ROWS` at a time: those of every lane's first row, then those of every lane's second.

Letters: H heads, D width of a head, R rows.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, const_expr

from genrec_kernels.cutlass.block_sizes import WARP, WARP_GROUP
from genrec_kernels.cutlass.scores import weight_of
from genrec_kernels.cutlass.variants import GROUP_ROWS

#: Rows of a warp that are staged at a time.
ROWS = 8
#: Words at a row's end, which keep the rows in different banks; the first has the row's weight.
_PADDING = 4
#: Numbers of 16 bits, and in float32, that a lane moves at once; words of it.
_CHUNK, _WIDE_CHUNK, _CHUNK_WORDS = 8, 4, 4


def staged_layout(variant):
    """Of a block's staged rows: words of a row, rows of a warp, warps."""
    warps = variant.groups * WARP_GROUP // WARP
    return cute.make_layout((variant.width // 2 + _PADDING, ROWS, warps))


class WarpRows:
    """The rows of a tile that a warp sums up, and where it stages them.

    Args:
        variant: an `AttentionVariant`.
        staged: int32 of `staged_layout`, in shared memory.
        warp_group: of the warp.
        thread: in the warp group.
        start: a request's first row.
        first_row: of the tile, from there.
        num_rows: of the request.
        head: of the tile.
    """

    def __init__(self, variant, staged, warp_group, thread, start, first_row, num_rows, head):
        warp = cute.arch.make_warp_uniform(thread // WARP)
        self.width = variant.width
        self.words = staged[None, None, warp_group * (WARP_GROUP // WARP) + warp]
        self.start, self.num_rows, self.head = start, num_rows, head
        self.first = first_row + warp_group * GROUP_ROWS + warp * (GROUP_ROWS // 4)
        self.lane = thread % WARP
        # Of what a lane sums up, among the staged: its row, and the first of its pairs.
        self.row, self.pair = self.lane // 4, self.lane % 4

    def moves(self, i):
        """What a lane moves of rows 8·i on: for each instruction, its staged row, the row of all
        rows, whether that is the request's, and the chunk in it."""
        lanes = self.width // _CHUNK
        for part in range(ROWS * lanes // WARP):
            staged_row = part * (WARP // lanes) + self.lane // lanes
            row = self.first + ROWS * i + staged_row
            here = self.start + cutlass.min(row, self.num_rows - 1)
            yield staged_row, here, row < self.num_rows, self.lane % lanes


@cute.jit
def add_own(rows, sums, tensors, half_alpha, own_bias, own_factor, sums_per_value):
    """What each row gets from itself, whose key and value are in no page, as the first of its sums.

    Args:
        rows: `WarpRows`.
        tensors: has `q`, `k` and `v`, [R, H, D] of 16 bits.
        half_alpha, own_bias: see `PagedHSTUSm90`.
        own_factor: what products of `q` and `k` are times.
        sums_per_value: what the sums are times beside values.
    """
    head, words = rows.head, rows.words
    floats = cute.recast_tensor(words, Float32)
    moves = [list(rows.moves(i)) for i in range(2)]
    # Both halves at once, so that they are waited for together, where there are registers for it.
    own = [_own_of(tensors, head, moves[i]) for i in range(2 if rows.width < 256 else 1)]
    for i in cutlass.range_constexpr(2):
        if const_expr(i == len(own)):
            own.append(_own_of(tensors, head, moves[i]))
        for (staged_row, _, _, chunk), (q, k, v) in zip(moves[i], own[i], strict=True):
            product = q.load().to(Float32) * k.load().to(Float32)
            score = product.reduce(cute.ReductionOp.ADD, Float32(0.0), 0)
            for step in range((rows.width // _CHUNK).bit_length() - 1):
                score += cute.arch.shuffle_sync_bfly(score, 1 << step)
            weight = weight_of(score * own_factor + own_bias, half_alpha) * sums_per_value
            _put_chunk(words, staged_row, chunk, cute.recast_tensor(v, Int32))
            if chunk == 0:
                floats[rows.width // 2, staged_row] = weight
        cute.arch.sync_warp()
        weight = floats[rows.width // 2, rows.row]
        pairs = cute.make_rmem_tensor(cute.make_layout(rows.width // 8), Int32)
        for j in cutlass.range_constexpr(rows.width // 8):
            pairs[j] = words[4 * j + rows.pair, rows.row]
        values = cute.recast_tensor(pairs, tensors.v.element_type)
        for j in cutlass.range_constexpr(rows.width // 8):
            for c in cutlass.range_constexpr(2):
                sums[c + 2 * i + 4 * j] = weight * values[2 * j + c].to(Float32)
        cute.arch.sync_warp()


@cute.jit
def store_rows(rows, sums, out, inverse_norm):
    """Write the sums, times `inverse_norm`, to `out` [R, H, D] of 16 bits."""
    rounded = cute.make_rmem_tensor(sums.layout, out.element_type)
    rounded.store((sums.load() * inverse_norm).to(out.element_type))
    pairs = cute.recast_tensor(rounded, Int32)
    for i in cutlass.range_constexpr(2):
        for j in cutlass.range_constexpr(rows.width // 8):
            rows.words[4 * j + rows.pair, rows.row] = pairs[i + 2 * j]
        cute.arch.sync_warp()
        for staged_row, here, real, chunk in rows.moves(i):
            target = cute.recast_tensor(out[here, rows.head, None], Int32)
            if real:
                _copy_chunk(rows.words, staged_row, chunk, target, chunk)
        cute.arch.sync_warp()


@cute.jit
def store_part_rows(rows, sums, partial, split, all_rows, heads, inverse_norm):
    """Write the sums of a part of the keys, times `inverse_norm`, to be added to those of others.

    Args:
        partial: float32 [parts · R · H, D].
        split: the part.
        all_rows, heads: R and H.
    """
    # Twice as wide as what is staged: the left half of the columns, then the right.
    half = rows.width // 16
    for i in cutlass.range_constexpr(2):
        for side in cutlass.range_constexpr(2):
            for j in cutlass.range_constexpr(half):
                pair = cute.make_rmem_tensor(cute.make_layout(2), Float32)
                for c in cutlass.range_constexpr(2):
                    pair[c] = sums[c + 2 * i + 4 * (j + side * half)] * inverse_norm
                line = rows.words[None, rows.row]
                place = cute.local_tile(line, (2,), (4 * j + rows.pair,))
                cute.autovec_copy(cute.recast_tensor(pair, Int32), place)
            cute.arch.sync_warp()
            for staged_row, here, real, chunk in rows.moves(i):
                at = (Int64(split) * all_rows + here) * heads + rows.head
                target = cute.recast_tensor(partial[at, None], Int32)
                if real:
                    to_chunk = chunk + side * (rows.width // _CHUNK)
                    _copy_chunk(rows.words, staged_row, chunk, target, to_chunk)
            cute.arch.sync_warp()


def _own_of(tensors, head, moves):
    """Of each move, the chunk of its row's q, k and v."""
    return [
        [_chunk_of(x[here, head, None], chunk, _CHUNK) for x in (tensors.q, tensors.k, tensors.v)]
        for _, here, _, chunk in moves
    ]


def _chunk_of(line, chunk, size):
    found = cute.make_rmem_tensor(cute.make_layout(size), line.element_type)
    cute.autovec_copy(cute.local_tile(line, (size,), (chunk,)), found)
    return found


def _put_chunk(words, row, chunk, found):
    place = cute.local_tile(words[None, row], (_CHUNK_WORDS,), (chunk,))
    cute.autovec_copy(found, place)


def _copy_chunk(words, row, chunk, line, to_chunk):
    found = _chunk_of(words[None, row], chunk, _CHUNK_WORDS)
    cute.autovec_copy(found, cute.local_tile(line, (_CHUNK_WORDS,), (to_chunk,)))
