"""What the instructions of a warp read and change."""

from __future__ import annotations

from genrec_kernels.ptx_emulator.block import Block, Machine
from genrec_kernels.ptx_emulator.registers import Registers


class WarpState:
    """32 threads of a block.

    `spun`: whether a wait in a loop just failed. `barrier_turn`: of the named barriers that the
    warp waits at; `cluster_turn`: of the cluster's, where it arrived last.
    """

    def __init__(self, machine: Machine, block: Block, index: int):
        self.machine = machine
        self.block = block
        self.index = index
        self.registers = Registers(machine, block, index)
        self.spun = False
        self.barrier_turn: dict[int, int] = {}
        self.cluster_turn = 0
