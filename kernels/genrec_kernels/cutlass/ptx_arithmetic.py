"""Arithmetic that PTX has and the DSL does not.

"Halves" are two numbers in half precision (float16) in one register: an instruction does both, so a
multiprocessor does twice as many of these as in float32.
"""

# mypy: ignore-errors

import struct

from cutlass import Float32, Int16, Int32
from cutlass._mlir.dialects import llvm


def halves(number: float) -> Int32:
    """A constant, in both halves."""
    (bits,) = struct.unpack("<H", struct.pack("<e", number))
    return Int32(bits << 16 | bits)


def pack_halves(low: Float32, high: Float32) -> Int32:
    """Both rounded; beyond the range the greatest, as infinity times 0 were NaN."""
    return _run(Int32, "cvt.rn.satfinite.f16x2.f32 $0, $2, $1;", "=r,f,f", low, high)


def multiply_halves(a: Int32, b: Int32) -> Int32:
    """``a · b``."""
    return _run(Int32, "mul.rn.f16x2 $0, $1, $2;", "=r,r,r", a, b)


def multiply_add_halves(a: Int32, b: Int32, c: Int32) -> Int32:
    """``a · b + c``, rounded once."""
    return _run(Int32, "fma.rn.f16x2 $0, $1, $2, $3;", "=r,r,r,r", a, b, c)


def tanh_of_halves(a: Int32) -> Int32:
    """Approximately; two special instructions."""
    return _run(Int32, "tanh.approx.f16x2 $0, $1;", "=r,r", a)


def bytes_of_halves(a: Int32) -> Int16:
    """Rounded to e4m3, the greatest beyond its range; the lower half becomes the lower byte."""
    return _run(Int16, "cvt.rn.satfinite.e4m3x2.f16x2 $0, $1;", "=h,r", a)


def word_of(low: Int16, high: Int16) -> Int32:
    """Four bytes."""
    return _run(Int32, "mov.b32 $0, {$1, $2};", "=r,h,h", low, high)


def _run(result, ptx, constraints, *operands):
    return result(
        llvm.inline_asm(
            result.mlir_type,
            [operand.ir_value() for operand in operands],
            ptx,
            constraints,
            has_side_effects=False,
            is_align_stack=False,
            asm_dialect=llvm.AsmDialect.AD_ATT,
        )
    )
