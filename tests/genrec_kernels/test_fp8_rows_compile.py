"""Rounding rows to eight bits compiles for an H100 or H200, on a machine without a GPU."""

from __future__ import annotations

import os
import re

import pytest
import triton
from triton.backends.compiler import GPUTarget

from genrec_kernels.fp8_layout import LARGEST, LARGEST_FACTOR, PERMUTED, PLACES
from genrec_kernels.triton import fp8_rows

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile"
)


@pytest.mark.parametrize("width", [64, 128, 256])
def test_rounding_compiles(width: int) -> None:
    kernel = fp8_rows._to_fp8
    names = kernel.arg_names
    constants = {
        "NUM_HEADS": 4,
        "HEAD_DIM": width,
        "BLOCK_DIM": width,
        "PLACES": PLACES,
        "PERMUTED": PERMUTED,
        "LARGEST": LARGEST,
        "FACTOR": LARGEST_FACTOR[width],
    }
    pointers = {"offsets_ptr": "*i64"}
    pointers |= {f"{x}_factor_ptr": "*fp32" for x in "qkv"}
    pointers |= dict.fromkeys(("q8_ptr", "k8_ptr", "vt_ptr"), "*fp8e4nv")
    pointers |= {f"{x}_ptr": "*bf16" for x in "qkv"}
    # As a launch has them: strides of whole rows are multiples of 16.
    aligned = [*pointers, "num_places", *(f"{x}_{axis}" for x in "qkv" for axis in ("row", "head"))]
    source = triton.compiler.ASTSource(
        fn=kernel,
        signature={
            name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names
        },
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 8})
    ptx = compiled.asm["ptx"]
    assert "cvt.rn.satfinite.e4m3x2" in ptx
    # Rows come, and values go, by 16 bytes of a thread.
    assert re.search(r"ld\.global\.v4\.b32", ptx)
    assert len(re.findall(r"st\.global\.v4\.b32", ptx)) >= 3
