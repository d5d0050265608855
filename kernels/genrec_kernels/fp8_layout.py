"""How attention in eight bits (e4m3) lays out its operands, for kernels, quantisers and twins.

The tensor cores want both operands of a product in eight bits along the sum. So values come
transposed, [H, D, P], P places of keys, and each sequence's begin at a multiple of `PLACES`: no
tile has another sequence's values, and the rest of a sequence's last `PLACES` is zero.

The weights go from the registers that the scores were summed in to those that the second product
reads, without moving between threads. A thread has the scores of two neighbouring columns in every
8; as an operand it holds four neighbouring places in every 16. So the keys of every 16 are
permuted: place ``4·t + e`` has key ``8·(e // 2) + 2·t + e % 2`` (`KEY_OF_PLACE`).

Letters in shapes: R rows of all sequences, B sequences, H heads, D width of a head, P places.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

#: Places that a sequence's values begin at a multiple of; a tile's keys divide it.
PLACES = 128
#: Keys that are permuted among themselves.
PERMUTED = 16
#: The key, of `PERMUTED`, at each place.
KEY_OF_PLACE = tuple(
    8 * (e // 2) + 2 * t + e % 2 for t, e in (divmod(place, 4) for place in range(PERMUTED))
)
#: The place, of `PERMUTED`, of each key.
PLACE_OF_KEY = tuple(KEY_OF_PLACE.index(key) for key in range(PERMUTED))
#: The greatest number in e4m3.
LARGEST = 448.0
#: Least scale, of a head or a row of zeros.
LEAST_SCALE = 1e-12
#: The greatest that attention takes of queries and keys, by width of a head: it sums products in
#: half precision, whose greatest number is 65504, and so many of these do not reach it, nor with
#: the greatest bias.
LARGEST_FACTOR = {64: 28.0, 128: 20.0, 256: 14.0}
#: The greatest that a bias may be beside such a sum.
LARGEST_BIAS = 14000.0
#: Of what such sums are times: half of it is a normal number in half precision.
LEAST_PRODUCT = 2.0**-12
#: What weights are times before they are rounded: silu's are small, e4m3's least normal number is
#: 2^-6.
WEIGHT_SCALE = 16.0


def largest_factor(width: int) -> float:
    """`LARGEST_FACTOR`, or of other widths that of the next, which only the twin takes."""
    found = [factor for of_width, factor in LARGEST_FACTOR.items() if of_width >= width]
    return max(found, default=LARGEST_FACTOR[256])


Count = TypeVar("Count", int, Tensor)


class Fp8Scales(NamedTuple):
    """What the numbers of each head are times what is stored: float32 [H] of q, of k and of v."""

    q: Tensor
    k: Tensor
    v: Tensor


class Fp8Rows(NamedTuple):
    """What attention in eight bits reads.

    q, k: float8_e4m3fn [R, H, D], contiguous.
    v: float8_e4m3fn [H, D, P], contiguous: values by place of their keys.
    scales: of all three.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scales: Fp8Scales


def places(num_rows: int, num_sequences: int) -> int:
    """That the values of a batch take, whatever its lengths: P."""
    return (num_rows // PLACES + num_sequences) * PLACES


def first_value_of(start: Count, sequence: Count) -> Count:
    """The place of a sequence's first key; of integers, tensors, or numbers of a kernel.

    It needs no sum over the sequences before: each takes at most one unit more than its rows.
    """
    return (start // PLACES + sequence) * PLACES


def places_of(keys: Tensor) -> Tensor:
    """The places of a sequence's, or a page's, keys from its first: int64 to int64 of one shape."""
    within = torch.tensor(PLACE_OF_KEY, device=keys.device)
    return keys // PERMUTED * PERMUTED + within[keys % PERMUTED]


def round_to_fp8(x: Tensor, largest: float = LARGEST) -> Tensor:
    """float8_e4m3fn of any shape: to nearest, ties to even; what is beyond the largest is cut."""
    return x.clamp(-largest, largest).to(torch.float8_e4m3fn)
