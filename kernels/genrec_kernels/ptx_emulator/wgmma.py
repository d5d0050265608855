"""One warp's part of a WGMMA instruction (PTX ISA, "wgmma").

A warp of a group computes 16 of the 64 rows, so warps need not meet for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_kernels.ptx_emulator.memory import SharedMemory, swizzled

_SHAPE = re.compile(r"m64n(\d+)k(\d+)")
_SPANS = {0: 0, 1: 128, 2: 64, 3: 32}
_LANE = np.arange(32)
#: Of eight bits, e4m3 ("fn": no infinities, one NaN of each sign); of 16 all others here.
_EIGHT_BITS = ("e4m3",)


@dataclass(frozen=True)
class MatrixDescriptor:
    """Where an operand lies in shared memory."""

    start: int
    leading: int
    stride: int
    span: int

    @classmethod
    def decode(cls, bits: int) -> MatrixDescriptor:
        """From the 64-bit operand of the instruction."""
        return cls(
            start=(bits & 0x3FFF) << 4,
            leading=(bits >> 16 & 0x3FFF) << 4,
            stride=(bits >> 32 & 0x3FFF) << 4,
            span=_SPANS[bits >> 62 & 3],
        )

    def addresses(
        self, outer: int, inner: int, *, transposed: bool, size: int = 2
    ) -> NDArray[np.int64]:
        """Of elements [outer, inner] of `size` bytes, `inner` along the sum of the product.

        Canonical layouts as CUTLASS documents them (`cute/arch/mma_sm90_desc.hpp`): rows of
        `span` bytes in groups of eight, along the sum, or along the other axis if `transposed`.
        """
        row, column = np.indices((outer, inner))
        if transposed:
            row, column = column, row
            units = self.span // size
            offset = row % 8 * self.span + row // 8 * self.stride
            offset += column % units * size + column // units * self.leading
        else:
            offset = row % 8 * self.span + row // 8 * self.stride + column * size
        return swizzled((self.start + offset).astype(np.int64), self.span)


def load_operand(
    shared: SharedMemory, bits: int, outer: int, inner: int, *, transposed: bool, element: str
) -> NDArray[np.float32]:
    """[outer, inner] of an operand in shared memory."""
    descriptor = MatrixDescriptor.decode(bits)
    if element in _EIGHT_BITS:
        places = descriptor.addresses(outer, inner, transposed=False, size=1)
        return widen_byte(shared.data[places])
    places = descriptor.addresses(outer, inner, transposed=transposed)
    low, high = (shared.data[places + i].astype(np.uint16) for i in range(2))
    return widen(low | high << np.uint16(8), element)


def widen(raw: NDArray[np.uint16], element: str) -> NDArray[np.float32]:
    """bf16 or fp16 bits as float32."""
    if element == "bf16":
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return raw.view(np.float16).astype(np.float32)


def narrow(values: NDArray[np.float32], element: str) -> NDArray[np.uint16]:
    """float32 to bf16 or fp16 bits, to nearest, ties to even."""
    if element == "f16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


def _e4m3_values() -> NDArray[np.float32]:
    """Of all 256 bytes: sign, four bits of exponent (bias 7), three of fraction."""
    byte = np.arange(256)
    exponent, fraction = byte >> 3 & 15, byte & 7
    value = np.where(
        exponent == 0, fraction * 2.0**-9, (8 + fraction) * np.exp2(exponent - 10.0)
    ).astype(np.float32)
    value[byte & 127 == 127] = np.nan
    return np.where(byte < 128, value, -value)


_E4M3 = _e4m3_values()


def widen_byte(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """e4m3 bytes as float32."""
    return _E4M3[raw]


def narrow_to_byte(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 to e4m3 to nearest, ties to even, at most 448 (``.satfinite``)."""
    size = np.minimum(np.abs(np.where(np.isnan(values), 0, values)).astype(np.float64), 448)
    _, exponent = np.frexp(size)
    step = np.exp2(np.maximum(exponent - 1, -6) - 3.0)
    found = np.searchsorted(_E4M3[:127], np.rint(size / step) * step)
    found = np.where(np.isnan(values), 127, np.minimum(found, 126))
    bits: NDArray[np.uint8] = (found + np.where(np.signbit(values), 128, 0)).astype(np.uint8)
    return bits


def shape_of(op: tuple[str, ...]) -> tuple[int, int]:
    """Columns of the result, and length of the sum."""
    match = next(m for m in map(_SHAPE.fullmatch, op) if m)
    return int(match.group(1)), int(match.group(2))


def rows_from_registers(registers: list[NDArray[np.uint32]], element: str) -> NDArray[np.float32]:
    """A warp's 16 rows of operand A from its four registers: 16 columns, or 32 of eight bits."""
    if element in _EIGHT_BITS:
        bytes_ = np.empty((16, 32), np.uint8)
        for i, register in enumerate(registers):
            for e in range(4):
                byte = register >> np.uint32(8 * e) & np.uint32(0xFF)
                bytes_[_LANE // 4 + 8 * (i % 2), _LANE % 4 * 4 + e + 16 * (i // 2)] = byte
        return widen_byte(bytes_)
    out = np.empty((16, 16), np.float32)
    for i, register in enumerate(registers):
        rows = _LANE // 4 + 8 * (i % 2)
        columns = _LANE % 4 * 2 + 8 * (i // 2)
        out[rows, columns] = widen((register & np.uint32(0xFFFF)).astype(np.uint16), element)
        out[rows, columns + 1] = widen((register >> np.uint32(16)).astype(np.uint16), element)
    return out


def from_halves(registers: NDArray[np.uint32]) -> NDArray[np.float32]:
    """[registers, 32] of two numbers in half precision to [2 · registers, 32] of one."""
    low, high = ((registers >> np.uint32(16 * c)).astype(np.uint16) for c in range(2))
    return np.stack([widen(low, "f16"), widen(high, "f16")], 1).reshape(-1, 32)


def to_halves(numbers: NDArray[np.float32]) -> NDArray[np.uint32]:
    """The inverse of `from_halves`, rounded."""
    bits = narrow(numbers, "f16").astype(np.uint32).reshape(-1, 2, 32)
    return bits[:, 0] | bits[:, 1] << np.uint32(16)


def accumulators_to_rows(registers: NDArray[np.float32]) -> NDArray[np.float32]:
    """[columns / 2, 32] of a warp's accumulators to [16, columns]."""
    out = np.empty((16, 2 * len(registers)), np.float32)
    out[_places(len(registers))] = registers
    return out


def rows_to_accumulators(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `accumulators_to_rows`."""
    return rows[_places(rows.shape[1] // 2)]


def _places(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    register = np.arange(count)[:, None]
    row = _LANE[None, :] // 4 + 8 * (register // 2 % 2)
    column = register // 4 * 8 + _LANE[None, :] % 4 * 2 + register % 2
    return row, column
