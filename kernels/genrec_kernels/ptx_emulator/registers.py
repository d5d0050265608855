"""Registers of a warp, and the operands of its instructions."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import TYPES, Lanes
from genrec_kernels.ptx_emulator.block import (
    LANES,
    PARAMETER_SPACE,
    PARAMETER_SPACING,
    Block,
    Machine,
)
from genrec_kernels.ptx_emulator.program import PtxError

_ADDRESS = re.compile(r"\[\s*([^\s+\]]+)\s*(?:\+\s*(-?\w+))?\s*\]")


class Registers:
    """What 32 lanes hold; numbers of warp `index` of a block."""

    def __init__(self, machine: Machine, block: Block, index: int):
        self._machine = machine
        self._block = block
        self._index = index
        self._values: dict[str, Lanes] = {}

    def read(self, operand: str, kind: str) -> Lanes:
        """An operand's values in the lanes, [32], as bits of a type."""
        dtype = TYPES[kind]
        if operand in self._values:
            value = self._values[operand]
            if value.dtype == dtype:
                return value
            if value.dtype.itemsize == dtype.itemsize and dtype != np.bool_:
                return value.view(dtype)
            return value.astype(dtype) if dtype.kind != "f" else value.astype("u4").view(dtype)
        return np.broadcast_to(self._constant(operand, dtype), LANES)

    def write(self, register: str, value: Lanes, lanes: Lanes) -> None:
        """Set a register in some lanes."""
        if register == "_":
            return
        value = np.asarray(value)
        if value.dtype.kind in "if":
            value = value.view(f"u{value.dtype.itemsize}")
        old = self._values.get(register)
        if lanes.all() or old is None:
            self._values[register] = np.array(np.broadcast_to(value, LANES))
        else:
            # A 16-bit result in a wider register, or the other way round.
            self._values[register] = np.where(lanes, value.astype(old.dtype), old)

    def address(self, operand: str) -> Lanes:
        """What ``[register + offset]`` says in the lanes: int64 [32]."""
        match = _ADDRESS.fullmatch(operand)
        if match is None:
            raise PtxError(f"no address: {operand}")
        base = self.read(match.group(1), "u64").astype(np.int64)
        return base + int(match.group(2) or "0", 0)

    def packed(self, operand: str, kind: str) -> Lanes:
        """``{a, b}`` as one number, `a` in the lowest bits."""
        parts = items(operand)
        bits = TYPES[kind].itemsize * 8 // len(parts)
        value = np.zeros(LANES, np.uint64)
        for i, part in enumerate(parts):
            value |= self.read(part, f"u{bits}").astype(np.uint64) << np.uint64(bits * i)
        return value.astype(TYPES[kind])

    def unpack(self, target: str, source: str, kind: str, lanes: Lanes) -> None:
        """The reverse."""
        parts = items(target)
        bits = TYPES[kind].itemsize * 8 // len(parts)
        value = self.read(source, kind).astype(np.uint64)
        for i, part in enumerate(parts):
            self.write(part, (value >> np.uint64(bits * i)).astype(f"u{bits // 8}"), lanes)

    def _constant(self, operand: str, dtype: np.dtype[Any]) -> Lanes:
        if operand in self._machine.program.parameters:
            place = list(self._machine.program.parameters).index(operand)
            return np.array(PARAMETER_SPACE + place * PARAMETER_SPACING).astype(dtype)
        if operand.startswith("%"):
            return self._special(operand).astype(dtype)
        if operand.startswith("0f"):
            number = np.array(struct.unpack(">f", bytes.fromhex(operand[2:]))[0], np.float32)
            return number if dtype.kind == "f" else number.view(np.uint32)
        if operand.startswith("__dynamic_shmem"):
            return np.array(0).astype(dtype)
        try:
            value = int(operand.removesuffix("U"), 0)
        except ValueError:
            raise PtxError(f"unknown operand {operand!r}, or a register never written") from None
        return np.array(value & (1 << 8 * dtype.itemsize) - 1, f"u{dtype.itemsize}").view(
            dtype if dtype.kind != "b" else "u1"
        )

    def _special(self, name: str) -> Lanes:
        lane = np.arange(LANES)
        values: dict[str, Lanes] = {
            "%tid.x": self._index * LANES + lane,
            "%tid.y": np.zeros(LANES, int),
            "%tid.z": np.zeros(LANES, int),
            "%laneid": lane,
            "%ctaid.x": np.full(LANES, self._block.index),
            "%nctaid.x": np.full(LANES, self._machine.num_blocks),
            "%cluster_ctarank": np.full(LANES, self._block.rank),
            "%ntid.x": np.full(LANES, self._machine.program.block_threads),
        }
        if name not in values:
            raise PtxError(f"unknown operand {name!r}, or a register never written")
        return values[name]


def items(operand: str) -> list[str]:
    """The parts of ``{a, b}``."""
    return [x.strip() for x in operand.strip("{} ").split(",")]
