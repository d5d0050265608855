"""Arithmetic, comparison and conversion instructions, on the 32 lanes of a warp at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_kernels.ptx_emulator.wgmma import narrow, narrow_to_byte, widen

Lanes = NDArray[Any]

TYPES: dict[str, np.dtype[Any]] = {
    "s8": np.dtype(np.int8),
    "s16": np.dtype(np.int16),
    "s32": np.dtype(np.int32),
    "s64": np.dtype(np.int64),
    "u8": np.dtype(np.uint8),
    "u16": np.dtype(np.uint16),
    "u32": np.dtype(np.uint32),
    "u64": np.dtype(np.uint64),
    "b8": np.dtype(np.uint8),
    "b16": np.dtype(np.uint16),
    "b32": np.dtype(np.uint32),
    "b64": np.dtype(np.uint64),
    "f32": np.dtype(np.float32),
    "pred": np.dtype(np.bool_),
}
#: Floats that are held as bits, and packed pairs.
_FLOATS = {"bf16x2": "b32", "f16x2": "b32", "bf16": "b16", "f16": "b16", "e4m3x2": "b16"}
_LARGEST_HALF = np.float32(65504)
_WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}

_COMPARE: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_TWO: dict[str, Callable[[Lanes, Lanes], Lanes]] = {
    "add": np.add,
    "sub": np.subtract,
    "min": np.minimum,
    "max": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
_ONE: dict[str, Callable[[Lanes], Lanes]] = {
    "mov": lambda a: a,
    "neg": np.negative,
    "not": np.invert,
    "abs": np.abs,
    "tanh": np.tanh,
    "ex2": np.exp2,
    "cvta": lambda a: a,
}


def result_type(op: tuple[str, ...]) -> str:
    """Type of what an arithmetic instruction writes."""
    if op[0] == "setp":
        return "pred"
    if op[0] == "popc":
        return "b32"
    if op[0] == "cvt":
        to = _kinds(op)[0]
        return _FLOATS.get(to, to)
    if op[-1] in _FLOATS:
        return _FLOATS[op[-1]]
    if op[:2] in (("mul", "wide"), ("mad", "wide")):
        return _WIDER[op[-1]]
    return op[-1]


def operand_types(op: tuple[str, ...], count: int) -> list[str]:
    """Types that an instruction reads its operands as."""
    kind = op[-1]
    if op[0] == "cvt":
        return [_FLOATS.get(kind, kind)] * count
    if op[0] == "selp":
        return [kind, kind, "pred"]
    if op[0] in ("shl", "shr"):
        return [kind, "u32"]
    if op[:2] == ("mad", "wide"):
        return [kind, kind, _WIDER[kind]]
    return [_FLOATS.get(kind, kind)] * count


def compute(op: tuple[str, ...], a: list[Lanes]) -> Lanes | None:
    """What an instruction gives, or None if it is none of these."""
    name = op[0]
    with np.errstate(all="ignore"):
        if op[-1] == "f16x2" and name != "cvt":
            return _of_halves(op, a)
        if name == "setp":
            return _COMPARE[op[1].removesuffix("u")](a[0], a[1])
        if name in _TWO:
            found = _TWO[name](a[0], a[1])
            return np.maximum(found, 0) if "relu" in op else found
        if name in _ONE:
            return _ONE[name](a[0])
        if name == "selp":
            return np.where(a[2], a[0], a[1])
        if name in ("mul", "mad"):
            return _multiply(op, a)
        if name == "fma":
            exact = a[0].astype(np.float64) * a[1].astype(np.float64) + a[2].astype(np.float64)
            return (_within_one(exact) if "sat" in op else exact).astype(np.float32)
        if name in ("shl", "shr"):
            bits = a[0].dtype.itemsize * 8
            count = np.minimum(a[1], bits - 1).astype(a[0].dtype)
            shifted = a[0] << count if name == "shl" else a[0] >> count
            gone = np.zeros_like(a[0]) if name == "shl" or op[-1][0] != "s" else shifted
            return np.asarray(np.where(a[1] >= bits, gone, shifted))
        if name == "prmt":
            return _permuted(*a)
        if name == "popc":
            return np.array([int(x).bit_count() for x in a[0]], np.uint32)
        if name == "div" and op[-1] == "f32":
            return np.asarray(a[0] / a[1])
        if name == "div":
            return _truncated(a[0], a[1])
        if name == "rem":
            return np.asarray(a[0] - _truncated(a[0], a[1]) * a[1]).astype(a[0].dtype)
        if name == "cvt":
            return _convert(op, a)
    return None


def _of_halves(op: tuple[str, ...], a: list[Lanes]) -> Lanes | None:
    """An instruction on two numbers of 16 bits in each lane, computed exactly and rounded once."""
    numbers = [x.view(np.float16).astype(np.float64) for x in map(np.ascontiguousarray, a)]
    if op[0] == "fma":
        found = numbers[0] * numbers[1] + numbers[2]
    elif op[0] == "mul":
        found = numbers[0] * numbers[1]
    elif op[0] == "tanh":
        found = np.tanh(numbers[0])
    else:
        return None
    if "sat" in op:
        found = _within_one(found)
    return found.astype(np.float16).view(np.uint32)


def _within_one(values: Lanes) -> Lanes:
    """``.sat``: cut to [0, 1], what is no number to 0."""
    return np.where(np.isnan(values), 0, np.clip(values, 0, 1))


def _permuted(low: Lanes, high: Lanes, selector: Lanes) -> Lanes:
    """Four bytes of eight; a selector's eighth has the byte's sign in all its bits."""
    both = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    out = np.zeros(len(selector), np.uint32)
    for i in range(4):
        chosen = selector >> np.uint32(4 * i) & np.uint32(15)
        byte = both >> (np.uint64(8) * (chosen & np.uint32(7)).astype(np.uint64)) & np.uint64(255)
        sign = np.where(byte & np.uint64(128), np.uint64(255), np.uint64(0))
        byte = np.where(chosen & np.uint32(8), sign, byte)
        out |= byte.astype(np.uint32) << np.uint32(8 * i)
    return out


def _multiply(op: tuple[str, ...], a: list[Lanes]) -> Lanes:
    if op[-1] == "f32":
        return np.asarray(a[0] * a[1])
    if op[1] == "hi":
        wide = a[0].astype(object) * a[1].astype(object)
        bits = a[0].dtype.itemsize * 8
        product = np.array([int(x) >> bits for x in wide]).astype(a[0].dtype)
    elif op[1] == "wide":
        wider = TYPES[_WIDER[op[-1]]]
        product = a[0].astype(wider) * a[1].astype(wider)
    else:
        product = a[0] * a[1]
    return product + a[2] if op[0] == "mad" else product


def _truncated(a: Lanes, b: Lanes) -> Lanes:
    """Division towards zero. Lanes that do not take part may divide by zero."""
    safe = np.where(b == 0, 1, b)
    quotient = np.abs(a.astype(np.int64)) // np.abs(safe.astype(np.int64))
    negative = (a.astype(np.int64) < 0) != (safe.astype(np.int64) < 0)
    return np.where(negative, -quotient, quotient).astype(a.dtype)


def _kinds(op: tuple[str, ...]) -> list[str]:
    """Types in a conversion's name: of the result, and of the source."""
    return [x for x in op[1:] if x in TYPES or x in _FLOATS]


def _convert(op: tuple[str, ...], a: list[Lanes]) -> Lanes:
    to, source = _kinds(op)
    if to == "e4m3x2":  # of f16x2
        pairs = np.ascontiguousarray(a[0]).view(np.float16).astype(np.float32)
        return narrow_to_byte(pairs).view(np.uint16)
    if to in ("bf16x2", "f16x2"):
        element = "bf16" if to == "bf16x2" else "f16"
        if "satfinite" in op and to == "f16x2":
            a = [np.clip(x, -_LARGEST_HALF, _LARGEST_HALF) for x in a]
        high, low = (narrow(x, element).astype(np.uint32) for x in a)
        return high << np.uint32(16) | low
    if to in ("bf16", "f16"):
        return narrow(a[0], to)
    if source in ("bf16", "f16"):
        return widen(np.ascontiguousarray(a[0]), source)
    if source == "f32" and to != "f32":
        cut = {"rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil, "rni": np.rint}
        rounding = next(cut[x] for x in op if x in cut)
        return rounding(a[0]).astype(TYPES[to])
    return a[0].astype(TYPES[to])
