"""Copies into shared memory that end at a barrier; they are started here, and done later."""

from __future__ import annotations

from functools import partial

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.block import Cluster
from genrec_kernels.ptx_emulator.memory import Barrier, SharedMemory, TensorMap
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
    target, source, barrier_at, *rest = instruction.operands
    handle, coordinates = _split_pair(source)
    for lane in np.flatnonzero(lanes):
        to = int(warp.registers.address(target)[lane])
        at = int(warp.registers.address(barrier_at)[lane])
        tensor = warp.machine.tensor_map(int(warp.registers.read(handle, "u64")[lane]))
        origin = tuple(
            int(warp.registers.read(x, "s32")[lane]) for x in reversed(items(coordinates))
        )
        ranks = [warp.block.rank]
        if "multicast::cluster" in instruction.op:
            mask = int(warp.registers.read(rest[0], "u16")[lane])
            ranks = [rank for rank in range(16) if mask >> rank & 1]
        for rank in ranks:
            warp.machine.copies.append(
                partial(_copy_box, warp.block.cluster, rank, tensor, to, origin, at)
            )


def _copy_box(
    cluster: Cluster, rank: int, tensor: TensorMap, to: int, origin: tuple[int, ...], at: int
) -> None:
    """A box of a tensor into the shared memory of one block, and its bytes to that's barrier."""
    shared = cluster.memory_of(rank)
    tensor.copy_into(shared, to, origin)
    shared.barrier(at).bytes_came(tensor.bytes_of_box)


def _copy_bytes(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """Bytes in a row."""
    target, source, count, barrier_at = instruction.operands
    for lane in np.flatnonzero(lanes):
        size = int(warp.registers.read(count, "u32")[lane])
        shared, to = warp.block.window(int(warp.registers.address(target)[lane]))
        memory, place = warp.block.window(int(warp.registers.address(barrier_at)[lane]))
        barrier = memory.barrier(place)
        origin = int(warp.registers.address(source)[lane])
        if size % 16 or to % 16 or origin % 16:
            raise PtxError(f"{size} bytes from {origin} to {to}: not multiples of 16")
        data = warp.machine.memory.at(origin, size)

        def copy(
            data: Lanes = data,
            shared: SharedMemory = shared,
            to: int = to,
            size: int = size,
            barrier: Barrier = barrier,
        ) -> None:
            shared.at(to, size)[:] = data
            barrier.bytes_came(size)

        warp.machine.copies.append(copy)


def map_address(warp: WarpState, instruction: Instruction, lanes: Lanes) -> None:
    """``mapa``: an address in another block of the cluster."""
    target, source, rank = instruction.operands
    places, ranks = (warp.registers.read(x, "u32").tolist() for x in (source, rank))
    addresses = list(map(Cluster.address, ranks, places))
    warp.registers.write(target, np.array(addresses, np.uint32), lanes)


def _split_pair(operand: str) -> tuple[str, str]:
    """``[handle, {a, b}]``."""
    handle, _, coordinates = operand.strip("[] ").partition(",")
    return handle.strip(), coordinates.strip()
