"""The variants of the attention kernels that are compiled ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import torch

Element = Literal["bf16", "fp16", "fp8"]
ELEMENTS: dict[torch.dtype, Element] = {torch.bfloat16: "bf16", torch.float16: "fp16"}

#: Query rows of a warp group: the height of every WGMMA instruction.
GROUP_ROWS = 64
#: Keys of a tile of paged variants, which one copy brings from pages of a multiple of so many rows;
#: and what a copy brings from other pages, which hold a multiple of that.
PAGE_KEYS, SMALL_PAGE_KEYS = 64, 16


@dataclass(frozen=True, kw_only=True)
class AttentionVariant:
    """What is fixed when a kernel is compiled.

    Args:
        element: dtype of q, k, v and the output; "fp8" is e4m3 with an output in bfloat16.
        width: width of a head, of keys and of values: 64, 128 or 256.
        bias: whether scores get a position and time bias, which was made before, for all heads
            (`bias_tiles`, `paged_bias`).
        window: whether rows see only their last `window` keys.
        short: whether it is for short sequences.
        groups: computing warp groups of a block, `GROUP_ROWS` query rows each.
        keys: keys of a tile.
        stages: tiles of keys, and of values, in shared memory at once.
        resident: blocks that a multiprocessor runs at once.
        paged: whether it is new rows over histories in pages.
        same_bias: of `paged` with `bias`: whether rows of a request have one bias.
        page_keys: of `paged`: rows of a page that one copy brings; a page holds a multiple of it.
        ahead: of `paged` fp8: whether a tile's scores are made while SiLU is applied to those of
            the tile before, which takes registers for both.
    """

    element: Element
    width: int
    bias: bool
    window: bool
    short: bool
    groups: int
    keys: int
    stages: int
    resident: int = 1
    paged: bool = False
    same_bias: bool = False
    page_keys: int = PAGE_KEYS
    ahead: bool = False

    @property
    def name(self) -> str:
        """Of its files. Tiles are left out, so that a name has one kernel."""
        parts = {
            "bias": self.bias and not self.same_bias,
            "same_bias": self.same_bias,
            "window": self.window,
            "short": self.short,
            f"page{self.page_keys}": self.page_keys != PAGE_KEYS,
        }
        options = "".join(f"_{part}" for part, present in parts.items() if present)
        kind = "paged" if self.paged else "forward"
        return f"hstu_{kind}_{self.element}_{self.width}{options}"

    @property
    def rows(self) -> int:
        """Query rows of a tile."""
        return GROUP_ROWS * self.groups

    @property
    def fp8(self) -> bool:
        """Whether q, k, v and the weights have eight bits.

        Scores, and a bias, are summed in half precision then, two in a register: none may be beyond
        it, see `fp8_layout.largest_factor`.
        """
        return self.element == "fp8"

    @property
    def element_bytes(self) -> int:
        """Of q, k and v."""
        return 1 if self.fp8 else 2

    @property
    def operand_bytes(self) -> int:
        """Shared memory of its query tile, and of its keys and values."""
        elements = self.width * (self.rows + 2 * self.keys * self.stages)
        return self.element_bytes * elements


@dataclass(frozen=True, kw_only=True)
class BiasTilesVariant:
    """Of the kernel that makes the tiles of a bias: it has no options."""

    @property
    def name(self) -> str:
        """Of its files."""
        return "bias_tiles"

    @property
    def operand_bytes(self) -> int:
        """Shared memory of operands."""
        return 0


#: Longest batch, in rows of its longest sequence, for which small tiles pay.
SHORT_ROWS = 2048
#: (warp groups, keys, stages, resident) for each width, as measured on an H200; with small
#: ones where those are faster for short sequences, and with a bias.
_TILES = {64: (3, 128, 2, 1), 128: (3, 64, 3, 1), 256: (2, 64, 2, 1)}
_SHORT_TILES = {64: (1, 64, 2, 3)}
_TILES_WITH_BIAS = _TILES | {64: (3, 64, 4, 1)}
#: Of paged variants: two warp groups have the 100 to 256 candidates of a request in few tiles. Rows
#: that each have a bias of their own load it, which more and smaller blocks hide better.
_PAGED_TILES = {64: (2, 64, 6, 1), 128: (2, 64, 4, 1), 256: (2, 64, 2, 1)}
_OWN_BIAS_PAGED_TILES = _PAGED_TILES | {64: (1, 64, 3, 3)}
#: Of e4m3: a tile's keys lie along the sum of P V, where 128 bytes are the widest swizzle.
_FP8_TILES = {64: (3, 128, 4, 1), 128: (3, 128, 4, 1), 256: (2, 64, 4, 1)}
_FP8_PAGED_TILES = {64: (2, 128, 4, 1), 128: (2, 128, 4, 1), 256: (2, 64, 4, 1)}
_OWN_BIAS_FP8_PAGED_TILES = _FP8_PAGED_TILES | {64: (1, 128, 2, 3)}
WIDTHS = tuple(_TILES)


def variant_of(
    element: Element,
    width: int,
    *,
    bias: bool,
    window: bool,
    max_rows: int | None = None,
) -> AttentionVariant:
    """The variant for sequences of at most `max_rows` rows; None for long ones."""
    short = max_rows is not None and max_rows <= SHORT_ROWS and width in _SHORT_TILES
    tiles = _SHORT_TILES if short else _TILES_WITH_BIAS if bias else _TILES
    groups, keys, stages, resident = tiles[width]
    return AttentionVariant(
        element=element,
        width=width,
        bias=bias,
        window=window,
        short=short,
        groups=groups,
        keys=keys,
        stages=stages,
        resident=resident,
    )


def fp8_variant_of(width: int) -> AttentionVariant:
    """The variant for q, k and v in e4m3."""
    groups, keys, stages, resident = _FP8_TILES[width]
    return AttentionVariant(
        element="fp8",
        width=width,
        bias=False,
        window=False,
        short=False,
        groups=groups,
        keys=keys,
        stages=stages,
        resident=resident,
    )


def paged_variant_of(
    element: Element, width: int, *, bias: bool, same_bias: bool, page_size: int = PAGE_KEYS
) -> AttentionVariant:
    """The variant for pages of `page_size` rows; `same_bias` says nothing without a bias."""
    own_bias, fp8 = bias and not same_bias, element == "fp8"
    tiles = _OWN_BIAS_PAGED_TILES if own_bias else _PAGED_TILES
    if fp8:
        tiles = _OWN_BIAS_FP8_PAGED_TILES if own_bias else _FP8_PAGED_TILES
    groups, keys, stages, resident = tiles[width]
    return AttentionVariant(
        element=element,
        width=width,
        bias=bias,
        window=False,
        short=False,
        groups=groups,
        keys=keys,
        stages=stages,
        resident=resident,
        paged=True,
        same_bias=bias and same_bias,
        page_keys=SMALL_PAGE_KEYS if page_size % PAGE_KEYS else PAGE_KEYS,
        # Three blocks a multiprocessor leave too few registers for it.
        ahead=fp8 and resident == 1,
    )


def all_variants() -> list[AttentionVariant]:
    """What `python -m genrec_kernels.cutlass.build` compiles."""
    found = [
        variant_of(element, width, bias=bias, window=window, max_rows=max_rows)
        for element, width, bias, window, max_rows in product(
            ELEMENTS.values(), WIDTHS, (False, True), (False, True), (None, SHORT_ROWS)
        )
    ]
    paged: list[tuple[Element, int]] = [
        *product(ELEMENTS.values(), (PAGE_KEYS, SMALL_PAGE_KEYS)),
        ("fp8", PAGE_KEYS),
    ]
    found += [
        paged_variant_of(element, width, bias=bias, same_bias=same_bias, page_size=page_size)
        for (element, page_size), width, (bias, same_bias) in product(
            paged, WIDTHS, ((False, False), (True, False), (True, True))
        )
    ]
    found += [fp8_variant_of(width) for width in WIDTHS]
    return list(dict.fromkeys(found))
