"""Words that the four lanes exchange which have a row of sums between them.

Of every eight columns each has two neighbours, a word of 16-bit numbers (PTX ISA, "wgmma:
accumulator fragments"); memory is read and written 16 bytes a lane, which is all of eight columns.
"""

# mypy: ignore-errors

import cutlass
import cutlass.cute as cute

#: Lanes that have a row, and words of each that they exchange.
LANES = 4
#: Numbers of 16 bits that a lane reads or writes at once.
CHUNK = 8


@cute.jit
def exchange(words, quarter):
    """Word `i` of lane `j` for word `j` of lane `i`.

    Args:
        words: int32 [4].
        quarter: the lane's place among the four.
    """
    for distance in cutlass.range_constexpr(1, 3):
        upper = quarter & distance != 0
        for low in cutlass.range_constexpr(LANES):
            if cutlass.const_expr(low & distance == 0):
                high = low + distance
                given = cutlass.select_(upper, words[low], words[high])
                taken = cute.arch.shuffle_sync_bfly(given, distance)
                words[low] = cutlass.select_(upper, taken, words[low])
                words[high] = cutlass.select_(upper, words[high], taken)


@cute.jit
def exchange_pairs(words, quarter):
    """Of neighbouring lanes, the even one gets both first pairs of words, the odd one both second.

    Args:
        words: int32 [2, 2], the second axis counts pairs.
        quarter: the lane's place among the four.
    """
    odd = quarter & 1 != 0
    for c in cutlass.range_constexpr(2):
        given = cutlass.select_(odd, words[c, 0], words[c, 1])
        taken = cute.arch.shuffle_sync_bfly(given, 1)
        words[c, 0] = cutlass.select_(odd, taken, words[c, 0])
        words[c, 1] = cutlass.select_(odd, words[c, 1], taken)
