"""What the compiled kernels take, before it is bytes: shared by the launcher and the emulator.

CuTe DSL passes a tensor as its address, its sizes and those of its strides that were left open
when it compiled; one that is read through the tensor memory accelerator (TMA) as a descriptor,
and then its open sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from genrec_kernels.cutlass.variants import AttentionVariant
from genrec_kernels.fp8_pages import keys_and_values
from genrec_kernels.paged_bias import PagedBias

#: Bytes of a row that one TMA copy brings at most: the widest swizzle of shared memory.
SWIZZLE_BYTES = 128


@dataclass(frozen=True)
class Boxes:
    """A tensor [.., rows, columns] that TMA copies by boxes of some rows and columns of one head.

    Args:
        tensor: of 16-bit or 8-bit elements.
        rows: of a box.
        span: bytes of a box's rows, and how far shared memory permutes them: 64 or 128.
    """

    tensor: Tensor
    rows: int
    span: int = SWIZZLE_BYTES

    @property
    def columns(self) -> int:
        """Of a box."""
        return self.span // self.tensor.element_size()


@dataclass(frozen=True)
class Sizes:
    """Sizes that follow a descriptor."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Memory:
    """A tensor by its address, and its open sizes and strides."""

    tensor: Tensor
    numbers: tuple[int, ...] = ()


Parameter = Boxes | Sizes | Memory | int | float


class BiasParameters(NamedTuple):
    """A layer's bias on a batch, of `bias_tiles_parameters`.

    seconds, buckets: the batch's `TimePlan`.
    pairs, cells: the layer's tables times 1 / alpha, see `triton.bias_tables.BiasTables`.
    """

    seconds: Tensor
    buckets: Tensor
    pairs: Tensor
    cells: Tensor


class BiasTiles(NamedTuple):
    """A layer's bias on a batch as tiles, of `forward_parameters`.

    vectors: int32 [B · T · TILE_VECTORS, WORDS], see `bias_tiles`.
    tiles: T.
    """

    vectors: Tensor
    tiles: int


def bias_tiles_parameters(
    *,
    vectors: Tensor,
    offsets: Tensor,
    histories: Tensor,
    key_limits: Tensor,
    bias: BiasParameters,
    edge: int,
    window: int,
) -> list[Parameter]:
    """Of `bias_tiles_sm90.BiasTilesSm90.kernel`, in its order, tensors as it says."""
    return [
        Memory(vectors, (vectors.shape[0],)),
        Memory(offsets, (offsets.shape[0],)),
        Memory(histories, (histories.shape[0],)),
        Memory(key_limits, (key_limits.shape[0],)),
        Memory(bias.seconds, (bias.seconds.shape[0],)),
        Memory(bias.buckets, (*bias.buckets.shape, *bias.buckets.stride()[:2])),
        Memory(bias.pairs, (bias.pairs.shape[0],)),
        Memory(bias.cells, (bias.cells.shape[0],)),
        edge,
        window,
    ]


class HeadScales(NamedTuple):
    """What fp8 operands are times, of `forward_parameters`.

    qk: float32 [H], of a head's products of queries and keys.
    v: float32 [H], of its values.
    """

    qk: Tensor
    v: Tensor


def forward_parameters(
    variant: AttentionVariant,
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    offsets: Tensor,
    histories: Tensor,
    key_limits: Tensor,
    claimed: Tensor,
    bias: BiasTiles | None,
    group: int,
    window: int,
    half_alpha: float,
    inverse_norm: float,
    scales: HeadScales | None = None,
) -> list[Parameter]:
    """Of `hstu_forward_sm90.HSTUForwardSm90.kernel`, in its order, tensors as it says."""
    rows, heads, width = q.shape
    sizes = Sizes((rows, heads))
    span = min(width * variant.element_bytes, SWIZZLE_BYTES)
    values: list[Parameter] = [Boxes(v.transpose(0, 1), variant.keys), sizes]
    if variant.fp8:
        values = [Boxes(v, width, min(variant.keys, SWIZZLE_BYTES)), Sizes((v.shape[2], heads))]
    return [
        Boxes(q.transpose(0, 1), variant.rows, span),
        sizes,
        Boxes(k.transpose(0, 1), variant.keys, span),
        sizes,
        *values,
        Memory(out, (rows, heads, out.stride(0))),
        Memory(offsets, (offsets.shape[0],)),
        Memory(histories, (histories.shape[0],)),
        Memory(key_limits, (rows,)),
        Memory(claimed),
        *([] if bias is None else [Memory(bias.vectors, (bias.vectors.shape[0],))]),
        *([] if scales is None else (Memory(scale, (heads,)) for scale in scales)),
        group,
        window,
        0 if bias is None else bias.tiles,
        half_alpha,
        inverse_norm,
    ]


class Fp8Parameters(NamedTuple):
    """What pages of eight bits come with, of `paged_parameters`.

    queries: float8 [R, H, D], q as the tensor cores take it.
    v_scale: float32 [H], what values are times.
    own_factor: what a product of a row's q and k is times beside products of queries and keys in
        the pages.
    """

    queries: Tensor
    v_scale: Tensor
    own_factor: float


def paged_parameters(
    variant: AttentionVariant,
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kv_pages: Tensor,
    out: Tensor,
    partial: Tensor,
    offsets: Tensor,
    key_limits: Tensor,
    page_table: Tensor,
    claimed: Tensor,
    bias: PagedBias | None,
    group: int,
    splits: int,
    half_alpha: float,
    inverse_norm: float,
    fp8: Fp8Parameters | None = None,
) -> list[Parameter]:
    """Of `paged_hstu_sm90.PagedHSTUSm90.kernel`, in its order, tensors as it says."""
    rows, heads, width = q.shape
    num_pages, _, page_rows, _ = kv_pages.shape
    pages = Sizes((page_rows, heads, num_pages))
    span = min(width * variant.element_bytes, SWIZZLE_BYTES)
    if fp8 is None:
        queries, keys = q, kv_pages[..., :width]
        values = Boxes(kv_pages[..., width:], variant.page_keys)
    else:
        queries = fp8.queries
        keys, of_places = keys_and_values(kv_pages)
        values = Boxes(of_places, width, variant.page_keys)
    return [
        Boxes(queries.transpose(0, 1), variant.rows, span),
        Sizes((rows, heads)),
        Boxes(keys, variant.page_keys, span),
        pages,
        values,
        pages,
        *(Memory(x, (rows, heads, *x.stride()[:2])) for x in (q, k, v)),
        Memory(out, (rows, heads, out.stride(0))),
        Memory(partial, (partial.shape[0],)),
        Memory(offsets, (offsets.shape[0],)),
        Memory(key_limits, (rows,)),
        Memory(page_table, (*page_table.shape, page_table.stride(0))),
        Memory(claimed),
        *(
            []
            if bias is None
            else [
                Memory(bias.rows, (*bias.rows.shape, bias.rows.stride(0))),
                Memory(bias.own),
            ]
        ),
        *([] if fp8 is None else [Memory(fp8.v_scale, (heads,))]),
        group,
        splits,
        half_alpha,
        inverse_norm,
        *([] if fp8 is None else [fp8.own_factor]),
    ]
