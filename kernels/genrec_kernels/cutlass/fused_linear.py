"""Launches the CUTLASS kernels of the linear layers.

Letters in shapes: R rows, K width, N columns.
"""

from __future__ import annotations

from functools import cache, lru_cache

import torch
from torch import Tensor

from genrec_kernels.current_device import on_device_of
from genrec_kernels.cutlass.hstu_attention import multiprocessors
from genrec_kernels.cutlass.library import CompiledKernel, compiled_kernels, launch, most_blocks
from genrec_kernels.cutlass.linear_choice import choose_tile, cluster_tiles, tile_times
from genrec_kernels.cutlass.linear_parameters import RowScales, linear_parameters
from genrec_kernels.cutlass.linear_variants import LinearTile, LinearVariant
from genrec_kernels.cutlass.variants import ELEMENTS, Element
from genrec_kernels.dispatch import Backend
from genrec_kernels.narrow_rows import NarrowRows

#: Rows whose tiles run side by side for each tile of columns: they share both through the L2 cache.
_SIDE_BY_SIDE = 1024
_ALIGNMENT = 16


def pays(element_bytes: int) -> bool:
    """Whether these kernels are faster than Triton's, as measured on an H200.

    With 16 bits they are; with eight bits Triton's are as fast or faster.
    """
    return element_bytes > 1


def offer(
    x: Tensor | NarrowRows, weight: Tensor | NarrowRows, bias: Tensor, residual: Tensor | None
) -> tuple[tuple[Backend, ...], dict[Backend, str]]:
    """Backends of a product that Triton's kernels take, best first, and why these are not one.

    Args:
        x, weight, bias, residual: as the op has them: float [..., K], [N, K], [N] and [..., N].
    """
    problem = unsupported(x, weight, bias, residual)
    if problem is not None:
        return ("triton", "reference"), {"cutlass": problem}
    if pays(_numbers(x).element_size()):
        return ("cutlass", "triton", "reference"), {}
    return ("triton", "cutlass", "reference"), {}


def unsupported(
    x: Tensor | NarrowRows, weight: Tensor | NarrowRows, bias: Tensor, residual: Tensor | None
) -> str | None:
    """Why no compiled kernel takes these inputs, whatever the GPU; None if one does."""
    element = _element_of(x, bias)
    if element is None:
        return (
            f"its kernels take bfloat16 and float16, and eight bits with the rest in bfloat16, not "
            f"{_numbers(x).dtype} with {bias.dtype}"
        )
    if not _kernels_of(element, residual is not None):
        return "its kernels of this layer were not compiled (make kernels)"
    numbers = [_numbers(x), _numbers(weight)]
    row_bytes = [t.shape[-1] * t.element_size() for t in numbers] + [bias.nbytes]
    read = [*numbers, *([] if residual is None else [residual])]
    kept = [t for t in read if t.is_contiguous()]  # a copy of others is aligned
    begins = [t.data_ptr() for t in kept]
    # A single row may be contiguous with any stride.
    strides = [t.stride(-2) * t.element_size() for t in kept if t.dim() > 1]
    if any(n % _ALIGNMENT for n in (*row_bytes, *begins, *strides)):
        return f"rows of inputs and output must begin at multiples of {_ALIGNMENT} bytes"
    return None


def linear_silu(
    x: Tensor | NarrowRows,
    weight: Tensor | NarrowRows,
    bias: Tensor,
    *,
    kernel: CompiledKernel[LinearVariant] | None = None,
) -> Tensor:
    """[R, K], [N, K] and [N], which `unsupported` has nothing against, to [R, N].

    Args:
        x, weight: bfloat16 or float16, or rows in eight bits, contiguous, on a Hopper GPU; R at
            least 1.
        bias: in the dtype of x, with eight bits bfloat16; contiguous.
        kernel: instead of the one for these inputs, for tuning.

    Returns:
        In the dtype of `bias`.
    """
    return _launch(x, weight, bias, None, kernel)


def linear_add(
    x: Tensor | NarrowRows,
    weight: Tensor | NarrowRows,
    bias: Tensor,
    residual: Tensor,
    *,
    kernel: CompiledKernel[LinearVariant] | None = None,
) -> Tensor:
    """As `linear_silu`, with a residual [R, N] as `bias` in place of SiLU."""
    return _launch(x, weight, bias, residual, kernel)


def _launch(
    x: Tensor | NarrowRows,
    weight: Tensor | NarrowRows,
    bias: Tensor,
    residual: Tensor | None,
    kernel: CompiledKernel[LinearVariant] | None,
) -> Tensor:
    x_numbers, w_numbers = _numbers(x), _numbers(weight)
    rows, columns = x_numbers.shape[0], w_numbers.shape[0]
    if kernel is None:
        element = _element_of(x, bias)
        assert element is not None
        processors = multiprocessors(bias.device)
        kernel = _kernel_for(element, residual is not None, rows, columns, processors)
    scales = None
    if isinstance(x, NarrowRows) and isinstance(weight, NarrowRows):
        scales = RowScales(x.scales, weight.scales)
    out = torch.empty((rows, columns), dtype=bias.dtype, device=bias.device)
    tile = kernel.variant.tile
    parameters = linear_parameters(
        kernel.variant,
        x=x_numbers,
        weight=w_numbers,
        bias=bias,
        residual=residual,
        scales=scales,
        out=out,
        group=max(_SIDE_BY_SIDE // (tile.block_rows * tile.cluster_rows), 1),
    )
    with on_device_of(bias):
        most = most_blocks(kernel, bias.device)
        blocks = min(most, cluster_tiles(tile, rows, columns) * tile.cluster_rows)
        launch(kernel, parameters, blocks=blocks, device=bias.device)
    return out


def _numbers(x: Tensor | NarrowRows) -> Tensor:
    return x.numbers if isinstance(x, NarrowRows) else x


def _element_of(x: Tensor | NarrowRows, bias: Tensor) -> Element | None:
    """What kernels call the dtypes of a product, if there are any of them."""
    if isinstance(x, NarrowRows):
        return "fp8" if bias.dtype == torch.bfloat16 else None
    return ELEMENTS.get(x.dtype)


@lru_cache(maxsize=4096)
def _kernel_for(
    element: Element, adds: bool, rows: int, columns: int, processors: int
) -> CompiledKernel[LinearVariant]:
    kernels = _kernels_of(element, adds)
    times = tile_times(fp8=element == "fp8", adds=adds)
    known = {tile: times[tile] for tile in kernels}
    return kernels[choose_tile(rows, columns, processors, known)]


@cache
def _kernels_of(element: Element, adds: bool) -> dict[LinearTile, CompiledKernel[LinearVariant]]:
    """Those that were compiled, by their tiles."""
    compiled = compiled_kernels()
    found = {}
    for tile in tile_times(fp8=element == "fp8", adds=adds):
        variant = LinearVariant(element=element, adds=adds, tile=tile)
        if variant.name in compiled:
            found[tile] = compiled[variant.name]
    return found
