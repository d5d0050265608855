"""Compiled for Hopper, which needs no GPU, the lookup of cached rows reads 16 bytes at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from genrec_kernels.triton.cached_rows import _gather

constants = {
    "WIDTH": 256, "BLOCK_WIDTH": 256, "BLOCK_ROWS": 16, "HAS_SCALES": False, "MERGE": False,
    "HAS_ORDER": False,
}
types = {
    "ids_ptr": "*i64", "slot_of_ptr": "*i32", "fast_ptr": "*bf16", "host_ptr": "*bf16",
    "fast_scales_ptr": "*i32", "host_scales_ptr": "*i32", "out_ptr": "*bf16",
    "outside_ptr": "*i32", "first_ptr": "*i64", "order_ptr": "*i64", "num_ids": "i32",
    "num_rows": "i32",
}
source = ASTSource(
    fn=_gather,
    signature=types | dict.fromkeys(constants, "constexpr"),
    constexprs=constants,
    # As at a launch: all pointers are aligned.
    attrs={(place,): [["tt.divisibility", 16]] for place in range(10)},
)
print(compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"])
"""


def test_rows_are_read_sixteen_bytes_at_a_time() -> None:
    pytest.importorskip("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    loads = Counter(re.findall(r"ld\.global\S*", done.stdout))
    # A thread has 64 bytes of the program's rows: once from the host, once from a slot.
    assert loads["ld.global.v4.b32"] == 8, loads
    assert not any(name.endswith((".b16", ".b8")) for name in loads), loads
    stores = Counter(re.findall(r"st\.global\.v4\S*", done.stdout))
    assert stores.total() == 4
