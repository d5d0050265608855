"""Every kernel of the paged path compiles for an H100 or H200, on a machine without a GPU."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget

from genrec_kernels.fp8_layout import LARGEST, largest_factor
from genrec_kernels.triton import (
    fp8_pages,
    fused_linear,
    fused_norm_gate,
    page_write,
    paged_hstu_kernels,
    top_k,
)

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile"
)

#: Bytes of shared memory that a program may have on sm_90.
HOPPER_SHARED = 227 * 1024
INT64 = {
    "page_times_ptr", "row_offsets_ptr", "limits_ptr", "row_times_ptr", "bound_ptr", "slots_ptr",
    "times_ptr", "exclude_ptr", "keys_ptr", "group_keys_ptr",
}  # fmt: skip
INT32 = {"table_ptr", "words_ptr"}
FLOAT32 = {
    "position_ptr", "time_table_ptr", "half_rows_ptr", "partial_ptr", "mean_ptr", "rstd_ptr",
    "grad_weight_ptr", "grad_bias_ptr",
}  # fmt: skip
FLOATS = {"half_alpha", "inverse_length", "eps"}


def compile_for_hopper(
    kernel: Any,
    *,
    num_warps: int = 4,
    num_stages: int = 2,
    types: dict[str, str] | None = None,
    aligned: Collection[str] = (),
    **constants: object,
) -> Any:
    """Compiled as a launch does it, arguments named `aligned` and pointers multiples of 16."""

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if types and name in types:
            return types[name]
        if name.endswith("_ptr"):
            tables = {"*i64": INT64, "*i32": INT32, "*fp32": FLOAT32}
            return next((k for k, names in tables.items() if name in names), "*bf16")
        return "fp32" if name in FLOATS else "i32"

    names = kernel.arg_names
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature={name: kind(name) for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if name.endswith("_ptr") or name in aligned
        },
    )
    options = {"num_warps": num_warps, "num_stages": num_stages}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


@pytest.mark.parametrize(
    ("rows", "keys", "page", "tma", "bias"),
    [(64, 64, 64, True, False), (16, 128, 16, False, False), (16, 64, 64, True, True)],
)
def test_paged_attention(rows: int, keys: int, page: int, tma: bool, bias: bool) -> None:
    compiled = compile_for_hopper(
        paged_hstu_kernels.attend,
        types={"kv_desc": f"tensordesc<bf16[{keys}, 64]>" if tma else "*bf16"},
        HEAD_DIM=64, BLOCK_DIM=64, BLOCK_ROWS=rows, BLOCK_KEYS=keys, PAGE=page, PACKED=not tma,
        HAS_BIAS=bias, SCALED=False, SHORT=True, FAST=True, UPCAST=False, ASM=True, TMA=tma,
        PDL=tma, STAGES=2,
    )  # fmt: skip
    assert compiled.asm["cubin"]
    assert ("wgmma.mma_async" in compiled.asm["ptx"]) == (rows >= 64)
    assert ("cp.async.bulk.tensor" in compiled.asm["ptx"]) == tma
    assert compiled.metadata.shared <= 227 * 1024


def test_paged_attention_of_eight_bits() -> None:
    compiled = compile_for_hopper(
        paged_hstu_kernels.attend,
        types={"kv_ptr": "*fp8e4nv", "kv_desc": "*fp8e4nv", "scales_ptr": "*fp32"},
        HEAD_DIM=64, BLOCK_DIM=64, BLOCK_ROWS=64, BLOCK_KEYS=64, PAGE=64, PACKED=False,
        HAS_BIAS=True, SCALED=True, SHORT=True, FAST=True, UPCAST=False, ASM=True, TMA=False,
        PDL=True, STAGES=2,
    )  # fmt: skip
    assert compiled.asm["cubin"]
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert "e4m3x2" in compiled.asm["ptx"]


def test_helpers_of_paged_attention() -> None:
    assert compile_for_hopper(
        paged_hstu_kernels.sum_splits, BLOCK=512, BLOCK_SPLITS=8, PDL=True
    ).asm["cubin"]
    assert compile_for_hopper(paged_hstu_kernels.bias_rows, BLOCK=512, PAGE=64, ASM=True).asm[
        "cubin"
    ]


def test_page_write() -> None:
    assert compile_for_hopper(
        page_write._write,
        NUM_HEADS=3, BLOCK_HEADS=4, HEAD_DIM=64, BLOCK_DIM=64, BLOCK_ROWS=4, PAGE=64,
        HAS_TIMES=True,
    ).asm["cubin"]  # fmt: skip


def test_norm_gate() -> None:
    tile = {"WIDTH": 500, "BLOCK_WIDTH": 512, "BLOCK_ROWS": 2}
    for gate in (False, True):
        plain = {"GATE": gate, "STATISTICS": gate, "BLOCK_PARTS": 0, "FP8": False}
        assert compile_for_hopper(fused_norm_gate._forward, **plain, **tile).asm["cubin"]
        narrow = plain | {"FP8": True, "STATISTICS": False}
        compiled = compile_for_hopper(
            fused_norm_gate._forward,
            types={"out_ptr": "*fp8e4nv", "scale_ptr": "*fp32"},
            **narrow,
            **tile,
        )
        assert "e4m3x2" in compiled.asm["ptx"]
    of_parts = {"GATE": True, "STATISTICS": False, "BLOCK_PARTS": 8, "FP8": False}
    assert compile_for_hopper(
        fused_norm_gate._forward, types={"x_ptr": "*fp32"}, **{**tile, "BLOCK_ROWS": 1}, **of_parts
    ).asm["cubin"]
    assert compile_for_hopper(fused_norm_gate._backward, num_warps=2, **tile).asm["cubin"]


@pytest.mark.parametrize("silu", [False, True], ids=["add", "silu"])
@pytest.mark.parametrize("rows", [10, 200, 1000, 100_000])
@pytest.mark.parametrize("element", ["bf16", "fp8e4nv"])
def test_linear(rows: int, silu: bool, element: str) -> None:
    size = 1 if element == "fp8e4nv" else 2
    tile = fused_linear.choose_tile(rows, 4096, 132, HOPPER_SHARED, element_bytes=size)
    written = f"tensordesc<bf16[{tile.rows}, {tile.columns if silu else tile.columns // 2}]>"
    compiled = compile_for_hopper(
        fused_linear._linear,
        types={
            "x_tiles": f"tensordesc<{element}[{tile.rows}, {tile.width}]>",
            "w_tiles": f"tensordesc<{element}[{tile.columns}, {tile.width}]>",
            "x_scale_ptr": "*fp32",
            "w_scale_ptr": "*fp32",
            "residual_tiles": written,
            "out_tiles": written,
        },
        R=tile.rows, N=tile.columns, K=tile.width, SCALED=size == 1, SILU=silu, FAST=True,
        INTERPRETED=False, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    assert "wgmma.mma_async" in compiled.asm["ptx"]
    assert ("e4m3.e4m3" in compiled.asm["ptx"]) == (size == 1)
    assert "cp.async.bulk.tensor" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= tile.shared_memory(size)
    assert compiled.metadata.shared * tile.resident <= HOPPER_SHARED


@pytest.mark.parametrize("rows", [1, 100, 400, 3000, 100_000])
@pytest.mark.parametrize("shared", [99 * 1024, 163 * 1024, HOPPER_SHARED])
def test_tiles_of_products_fit_the_gpu(rows: int, shared: int) -> None:
    assert fused_linear.choose_tile(rows, 1024, 84, shared).shared_memory(2) <= shared


def test_tiles_of_products_grow_with_the_rows() -> None:
    chosen = [fused_linear.choose_tile(n, 4096, 132, HOPPER_SHARED) for n in (40, 384, 3072)]
    assert [(tile.rows, tile.columns) for tile in chosen] == [(64, 32), (64, 64), (128, 256)]


def test_top_k() -> None:
    flags = {"HAS_EXCLUDE": True, "HAS_ALLOW": True}
    assert compile_for_hopper(top_k._mark_excluded, BLOCK=128).asm["cubin"]
    best = compile_for_hopper(
        top_k._best_of_groups,
        types={"allow_ptr": "*u8"},
        BLOCK_USERS=64, BLOCK_ITEMS=128, BLOCK_WIDTH=64, UPCAST=False, **flags,
    )  # fmt: skip
    assert "wgmma.mma_async" in best.asm["ptx"]
    assert compile_for_hopper(
        top_k._score_groups, types={"allow_ptr": "*u8"}, BLOCK_WIDTH=256, **flags
    ).asm["cubin"]


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("page", [16, 64])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_page_write_of_eight_bits(width: int, page: int, queries: bool) -> None:
    compiled = compile_for_hopper(
        fp8_pages._write,
        num_warps=fp8_pages.WARPS,
        types={
            "scales_ptr": "*fp32", "keys_ptr": "*fp8e4nv", "values_ptr": "*fp8e4nv",
            "queries_ptr": "*fp8e4nv", "qk_scale": "fp32",
        },
        aligned=("k_row", "k_head", "v_row", "v_head", "kv_page", "kv_head", "q_row", "q_head"),
        HEAD_DIM=width, BLOCK_DIM=fp8_pages.DIMENSIONS, PAGE=page, HAS_TIMES=True,
        LARGEST=LARGEST, LARGEST_KEY=largest_factor(width), HAS_QUERIES=queries,
    )  # fmt: skip
    ptx = compiled.asm["ptx"]
    assert "e4m3x2" in ptx
    # A thread stores two rows of keys, and two dimensions of values, by 16 bytes; values come in
    # pairs and need no exchange between threads. Two bytes and one are of groups not whole. Queries
    # go as keys do.
    assert ptx.count("st.global.v4.b32") == 4 + 2 * queries
    assert ptx.count("st.global.b16") == 16
    assert ptx.count("st.global.b8") == 32
    assert "shared" not in ptx
    assert "shfl" not in ptx


def test_queries_of_eight_bits() -> None:
    compiled = compile_for_hopper(
        fp8_pages._narrow_queries,
        types={"k_scales_ptr": "*fp32", "out_ptr": "*fp8e4nv", "qk_scale": "fp32"},
        NUM_HEADS=4, HEAD_DIM=256, BLOCK_DIM=256, BLOCK_ROWS=16, LARGEST=largest_factor(256),
    )  # fmt: skip
    assert "e4m3x2" in compiled.asm["ptx"]
