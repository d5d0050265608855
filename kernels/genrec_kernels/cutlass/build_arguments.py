"""What the kernels are compiled for: dtypes, ranks, and which sizes and strides are known then."""

from __future__ import annotations

from typing import Any

import cutlass
from cutlass import Float32, Int16, Int32, Int64, cute
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream, make_fake_tensor

from genrec_kernels.cutlass.bias_tiles import WORDS
from genrec_kernels.cutlass.linear_variants import LinearVariant
from genrec_kernels.cutlass.variants import AttentionVariant
from genrec_kernels.paged_bias import COLUMNS

_ELEMENTS = {"bf16": cutlass.BFloat16, "fp16": cutlass.Float16, "fp8": cutlass.Float8E4M3FN}
#: Bytes by which strides that TMA reads are divisible.
_STRIDE_BYTES = 16
#: Elements of 16 bits by which strides of an output are.
_OUT_STRIDE = 8


def forward_arguments(variant: AttentionVariant) -> list[Any]:
    """Of `hstu_forward_sm90.HSTUForwardSm90`."""
    element = _ELEMENTS[variant.element]
    rows, heads, width = _open("R"), _open("H"), variant.width
    values: tuple[Any, ...] = (rows, heads, width)
    out = element
    scales: list[Any] = [None, None]
    if variant.fp8:
        values = (heads, width, _open("P", _STRIDE_BYTES))
        out = cutlass.BFloat16
        scales = [_vector(Float32, heads)] * 2
    return [
        *(_strided(name, element, (rows, heads, width)) for name in "qk"),
        _strided("v", element, values),
        _rows_out(out, rows, heads, width),
        _vector(Int64, _open("B1")),
        _vector(Int64, _open("B")),
        _vector(Int64, rows),
        _vector(Int32, 1),
        _vectors("vectors") if variant.bias else None,
        *scales,
        *[Int32(1)] * 4,
        *[Float32(1.0)] * 2,
        make_fake_stream(),
    ]


def bias_tiles_arguments() -> list[Any]:
    """Of `bias_tiles_sm90.BiasTilesSm90`."""
    rows = _open("R")
    return [
        _vectors("vectors"),
        _vector(Int64, _open("B1")),
        _vector(Int64, _open("B")),
        _vector(Int64, rows),
        *_bias_tables(rows),
        *[Int32(1)] * 3,
        make_fake_stream(),
    ]


def paged_arguments(variant: AttentionVariant) -> list[Any]:
    """Of `paged_hstu_sm90.PagedHSTUSm90`."""
    element = _ELEMENTS[variant.element]
    rows, heads, width = _open("R"), _open("H"), variant.width
    pages = (_open("P"), heads, _open("S", variant.page_keys), width)
    bias: list[Any] = [None, None]
    if variant.bias:
        bias = [
            make_fake_tensor(
                cutlass.Float16 if variant.fp8 else Float32,
                (_open("N"), _open("K")),
                (_open("bias_row", COLUMNS), 1),
                assumed_align=128,
            ),
            _vector(Float32, 1),
        ]
    wide, values = element, pages
    if variant.fp8:
        wide = cutlass.BFloat16
        values = (*pages[:2], width, pages[2])
    return [
        _strided("queries", element, (rows, heads, width)),
        *(_strided(name, wide, (rows, heads, width)) for name in "qkv"),
        _strided("k_pages", element, pages),
        _strided("v_pages", element, values),
        _rows_out(wide, rows, heads, width),
        make_fake_compact_tensor(
            Float32, (_open("parts"), width), stride_order=(1, 0), assumed_align=16
        ),
        _vector(Int32, _open("B1")),
        _vector(Int64, rows),
        make_fake_tensor(Int32, (_open("B"), _open("M")), (_open("table_row"), 1), assumed_align=4),
        _vector(Int32, 1),
        *bias,
        _vector(Float32, heads) if variant.fp8 else None,
        *[Int32(1)] * 3,
        *[Float32(1.0)] * 2,
        Float32(1.0) if variant.fp8 else None,
        make_fake_stream(),
    ]


def linear_arguments(variant: LinearVariant) -> list[Any]:
    """Of `linear_sm90.LinearSm90`."""
    element = _ELEMENTS[variant.element]
    wide = cutlass.BFloat16 if variant.fp8 else element
    rows, columns = _open("R"), _open("N", _OUT_STRIDE)
    width = _open("K", _STRIDE_BYTES * 8 // element.width)
    out = [_strided(name, wide, (rows, columns)) for name in ("residual", "out")]
    return [
        _strided("x", element, (rows, width)),
        _strided("weight", element, (columns, width)),
        _vector(wide, columns),
        out[0] if variant.adds else None,
        *([_vector(Float32, rows), _vector(Float32, columns)] if variant.fp8 else [None] * 2),
        out[1],
        *[Int32(1)] * 2,
        make_fake_stream(),
    ]


def _bias_tables(rows: Any) -> list[Any]:
    """Of a bias on jagged rows, see `bias.fill_bias`."""
    blocks = _open("blocks")
    return [
        _vector(Int32, rows),
        make_fake_compact_tensor(
            Int16, (_open("B"), blocks, blocks), stride_order=(2, 1, 0), assumed_align=2
        ),
        make_fake_compact_tensor(
            Float32, (_open("positions"), 2), stride_order=(1, 0), assumed_align=8
        ),
        _vectors("cells"),
    ]


def _vectors(name: str) -> Any:
    """Of 16 bytes."""
    return make_fake_compact_tensor(
        Int32, (_open(name), WORDS), stride_order=(1, 0), assumed_align=16
    )


def _open(name: str, multiple: int = 1) -> Any:
    """A size or stride that a launch tells."""
    if multiple == 1:
        return cute.sym_int64(symbol=name)
    return cute.sym_int64(symbol=name, divisibility=multiple)


def _strided(name: str, element: Any, shape: tuple[Any, ...]) -> Any:
    """A tensor that TMA reads, with any strides but the last."""
    multiple = _STRIDE_BYTES * 8 // element.width
    strides = [_open(f"{name}_{axis}", multiple) for axis in range(len(shape) - 1)]
    return make_fake_tensor(element, shape, (*strides, 1), assumed_align=16)


def _rows_out(element: Any, rows: Any, heads: Any, width: int) -> Any:
    strides = (_open("out_row", _OUT_STRIDE), width, 1)
    return make_fake_tensor(element, (rows, heads, width), strides, assumed_align=16)


def _vector(dtype: Any, size: Any) -> Any:
    return make_fake_compact_tensor(dtype, (size,), assumed_align=dtype.width // 8)
