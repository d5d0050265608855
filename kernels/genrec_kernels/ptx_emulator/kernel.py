"""Launching a kernel on the emulator."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from genrec_kernels.ptx_emulator.block import LANES, Block, Cluster, Machine
from genrec_kernels.ptx_emulator.memory import GlobalMemory, TensorMap
from genrec_kernels.ptx_emulator.program import parse
from genrec_kernels.ptx_emulator.warp import Warp

#: What a parameter may be: an array with its sizes and strides, a tensor map, a number, or bytes.
Argument = TensorMap | tuple[NDArray[np.generic], *tuple[int, ...]] | int | float | bytes

__all__ = ["Deadlock", "Kernel", "TensorMap"]


class Deadlock(Exception):
    """Every warp waits for another."""


class Kernel:
    """A kernel from its PTX.

    Args:
        text: a PTX module with one kernel, compiled for sm_90a.
    """

    def __init__(self, text: str):
        self.program = parse(text)

    def launch(
        self, arguments: Sequence[Argument], *, blocks: int, seed: int = 0, cluster: int = 1
    ) -> None:
        """Run to the end.

        Args:
            arguments: one for each parameter. A tuple is an array, written in place, and the
                64-bit sizes and strides that follow its address.
            blocks: of the grid. All are resident at once.
            seed: of the order in which warps and copies take turns.
            cluster: blocks of one.

        Raises:
            Deadlock: no warp can go on.
            PtxError: an instruction that the emulator does not know.
            MemoryFault: an address outside of the arguments; more or fewer bytes at a barrier than
                it expects.
        """
        memory = GlobalMemory()
        parameters: list[bytes | TensorMap] = []
        for argument, size in zip(arguments, self.program.parameters.values(), strict=True):
            parameters.append(_as_parameter(argument, size, memory))
        order = random.Random(seed)
        machine = Machine(self.program, parameters, memory, blocks, order)
        per_block = self.program.block_threads // LANES
        grid = _grid(blocks, cluster, per_block)
        warps = [Warp(machine, block, warp) for block in grid for warp in range(per_block)]
        while warps:
            order.shuffle(warps)
            moved = False
            for warp in warps:
                moved |= warp.run()
                warp.block.running -= warp.done
                while machine.copies and order.random() < 0.3:
                    machine.copies.pop(order.randrange(len(machine.copies)))()
                    moved = True
            warps = [warp for warp in warps if not warp.done]
            if not moved and machine.copies:
                machine.copies.pop(0)()
            elif not moved and warps:
                stuck = sorted({(w.block.index, w.index) for w in warps})
                raise Deadlock(f"warps (block, warp) that wait for ever: {stuck}")
        for copy in machine.copies:  # that nobody waited for
            copy()
        for block in grid:
            block.shared.end()


def _grid(blocks: int, size: int, warps: int) -> list[Block]:
    """Blocks of so many warps, in clusters of a size."""
    if blocks % size:
        raise ValueError(f"{blocks} blocks are no whole clusters of {size}")
    grid: list[Block] = []
    for first in range(0, blocks, size):
        cluster = Cluster()
        cluster.blocks += [Block(first + i, cluster, warps) for i in range(size)]
        grid += cluster.blocks
    return grid


def _as_parameter(argument: Argument, size: int, memory: GlobalMemory) -> bytes | TensorMap:
    if isinstance(argument, TensorMap):
        return argument
    if isinstance(argument, bytes):
        data = argument
    elif isinstance(argument, tuple):
        array, *numbers = argument
        data = struct.pack(f"<Q{len(numbers)}q", memory.place(array), *numbers)
    elif isinstance(argument, float):
        data = struct.pack("<f", argument)
    else:
        data = struct.pack("<i", argument)
    return data.ljust(size, b"\0")
