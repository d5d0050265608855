"""A load that Triton's pipeliner does not see."""
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_apart(pointers, ASM: tl.constexpr):
    """Load, out of the sight of Triton's pipeliner.

    It would copy whatever a product depends on through shared memory, an iteration ahead, and
    wait for it there. That is right for tiles of keys, and wrong for tables that stay in the L1
    cache and for what the loop itself loads ahead.
    """
    if ASM and pointers.dtype.element_ty == tl.float32:
        return tl.inline_asm_elementwise(
            "ld.global.nc.f32 $0, [$1];", "=f,l", [pointers.to(tl.int64)],
            dtype=tl.float32, is_pure=True, pack=1,
        )  # fmt: skip
    elif ASM and pointers.dtype.element_ty == tl.int32:
        return tl.inline_asm_elementwise(
            "ld.global.nc.u32 $0, [$1];", "=r,l", [pointers.to(tl.int64)],
            dtype=tl.int32, is_pure=True, pack=1,
        )  # fmt: skip
    elif ASM and pointers.dtype.element_ty == tl.int64:
        return tl.inline_asm_elementwise(
            "ld.global.nc.u64 $0, [$1];", "=l,l", [pointers.to(tl.int64)],
            dtype=tl.int64, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        return tl.load(pointers)
