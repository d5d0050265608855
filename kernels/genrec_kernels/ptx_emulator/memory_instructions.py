"""Loads, stores and atomic additions."""

from __future__ import annotations

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import TYPES, Lanes
from genrec_kernels.ptx_emulator.block import LANES
from genrec_kernels.ptx_emulator.program import Instruction, PtxError
from genrec_kernels.ptx_emulator.registers import items
from genrec_kernels.ptx_emulator.warp_state import WarpState


def load(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``ld``: of any space."""
    kind = instruction.op[-1]
    size = TYPES[kind].itemsize
    names = items(instruction.operands[0])
    address = warp.registers.address(instruction.operands[1])
    values = np.zeros((len(names), LANES), f"u{size}")
    for lane in np.flatnonzero(lanes):
        raw = _bytes(warp, instruction.op[1], int(address[lane]), size * len(names))
        values[:, lane] = raw.view(f"u{size}")
    for name, value in zip(names, values, strict=True):
        warp.registers.write(name, value.view(TYPES[kind]), lanes)


def store(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``st``: of any space."""
    kind = instruction.op[-1]
    address = warp.registers.address(instruction.operands[0])
    values = np.stack([warp.registers.read(x, kind) for x in items(instruction.operands[1])])
    for lane in np.flatnonzero(lanes):
        raw = np.ascontiguousarray(values[:, lane]).view(np.uint8)
        _bytes(warp, instruction.op[1], int(address[lane]), raw.size)[:] = raw


def atomic_add(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``atom.add``, in global memory."""
    kind = instruction.op[-1]
    target, where, value = instruction.operands
    if "add" not in instruction.op:
        raise PtxError(f"unknown instruction {instruction.name}")
    address, added = warp.registers.address(where), warp.registers.read(value, kind)
    old = np.zeros(LANES, TYPES[kind])
    for lane in np.flatnonzero(lanes):
        cell = warp.machine.memory.at(int(address[lane]), TYPES[kind].itemsize)
        old[lane] = cell.view(TYPES[kind])[0]
        cell.view(TYPES[kind])[0] += added[lane]
    warp.registers.write(target, old, lanes)


def _bytes(warp: WarpState, space: str, address: int, size: int) -> Lanes:
    """What an address names, to be read or written."""
    if space.startswith("shared"):
        return warp.block.shared.at(address, size)
    if space == "param":
        return warp.machine.parameter(address, size)
    return warp.machine.memory.at(address, size)
