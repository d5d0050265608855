"""Copies into shared memory that end at a barrier; they are started here, and done later."""

from __future__ import annotations

from typing import Any

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.memory import TensorMap
from genrec_kernels.ptx_emulator.program import Instruction, PtxError
from genrec_kernels.ptx_emulator.registers import items
from genrec_kernels.ptx_emulator.warp_state import WarpState


def copy_bulk(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``cp.async.bulk``: boxes of tensors (TMA), or bytes in a row."""
    if instruction.op[:3] != ("cp", "async", "bulk"):
        raise PtxError(f"unknown instruction {instruction.name}")
    if instruction.op[3] != "tensor":
        _copy_bytes(warp, instruction, lanes)
        return
    target, source, barrier_at, *_ = instruction.operands
    shared = warp.block.shared
    handle, coordinates = _split_pair(source)
    for lane in np.flatnonzero(lanes):
        to = int(warp.registers.address(target)[lane])
        barrier = shared.barrier(int(warp.registers.address(barrier_at)[lane]))
        tensor = warp.machine.tensor_map(int(warp.registers.read(handle, "u64")[lane]))
        origin = tuple(
            int(warp.registers.read(x, "s32")[lane]) for x in reversed(items(coordinates))
        )

        def copy(
            tensor: TensorMap = tensor,
            to: int = to,
            origin: tuple[int, ...] = origin,
            barrier: Any = barrier,
        ) -> None:
            tensor.copy_into(shared, to, origin)
            barrier.bytes_came(tensor.bytes_of_box)

        warp.machine.copies.append(copy)


def _copy_bytes(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """Bytes in a row."""
    target, source, count, barrier_at = instruction.operands
    shared = warp.block.shared
    for lane in np.flatnonzero(lanes):
        size = int(warp.registers.read(count, "u32")[lane])
        to = int(warp.registers.address(target)[lane])
        origin = int(warp.registers.address(source)[lane])
        if size % 16 or to % 16 or origin % 16:
            raise PtxError(f"{size} bytes from {origin} to {to}: not multiples of 16")
        data = warp.machine.memory.at(origin, size)
        barrier = shared.barrier(int(warp.registers.address(barrier_at)[lane]))

        def copy(
            data: Lanes = data, to: int = to, size: int = size, barrier: Any = barrier
        ) -> None:
            shared.at(to, size)[:] = data
            barrier.bytes_came(size)

        warp.machine.copies.append(copy)


def map_address(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``mapa``: an address in another block of the cluster."""
    target, source, _ = instruction.operands  # clusters are of one block
    warp.registers.write(target, warp.registers.read(source, "u32"), lanes)


def _split_pair(operand: str) -> tuple[str, str]:
    """``[handle, {a, b}]``."""
    handle, _, coordinates = operand.strip("[] ").partition(",")
    return handle.strip(), coordinates.strip()
