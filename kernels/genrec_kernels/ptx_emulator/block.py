"""What the warps of a block share, and what all warps of a launch share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.memory import GlobalMemory, MemoryFault, SharedMemory, TensorMap
from genrec_kernels.ptx_emulator.program import Program, PtxError

LANES = 32
#: Parameters are addressed by this and their place.
PARAMETER_SPACE = 1 << 60
PARAMETER_SPACING = 1 << 16
#: Shared memory of block n of a cluster begins at n + 1 times this; a block's own also at 0.
_BLOCK_SPACING = 1 << 24


@dataclass
class Block:
    """What the warps of a block share.

    Args:
        cluster: its cluster's blocks, this one among them.
        running: warps that have not returned.
    """

    index: int
    cluster: Cluster
    running: int
    shared: SharedMemory = field(default_factory=SharedMemory)
    #: How many threads wait at a named barrier, and how often it was passed.
    waiting: dict[int, int] = field(default_factory=dict)
    passed: dict[int, int] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """Its place in the cluster."""
        return self.index % len(self.cluster.blocks)

    def window(self, address: int) -> tuple[SharedMemory, int]:
        """The shared memory that an address of the cluster's is in, and the place there."""
        number, place = divmod(address, _BLOCK_SPACING)
        return (self.cluster.memory_of(number - 1) if number else self.shared), place


@dataclass
class Cluster:
    """Blocks that reach each other's shared memory, and the barrier of all their warps."""

    blocks: list[Block] = field(default_factory=list)
    arrived: int = 0
    passed: int = 0

    def memory_of(self, rank: int) -> SharedMemory:
        """A block's, which must still run."""
        block = self.blocks[rank]
        if not block.running:
            raise MemoryFault(f"block {block.index} has ended, and its shared memory with it")
        return block.shared

    def arrive(self) -> None:
        """Of one warp."""
        self.arrived += 1
        if self.arrived == sum(block.running for block in self.blocks):
            self.arrived = 0
            self.passed += 1

    @staticmethod
    def address(rank: int, place: int) -> int:
        """Of a place in a block's shared memory."""
        return (rank + 1) * _BLOCK_SPACING + place


@dataclass
class Machine:
    """What all warps of a launch share.

    Args:
        parameters: bytes, or a tensor map, for each of the kernel's parameters.
        copies: copies that were started and are not done.
    """

    program: Program
    parameters: list[bytes | TensorMap]
    memory: GlobalMemory
    num_blocks: int
    random: random.Random
    copies: list[Callable[[], None]] = field(default_factory=list)

    def parameter(self, address: int, size: int) -> Lanes:
        """Bytes of a parameter; writing to them is an error."""
        place, offset = divmod(address - PARAMETER_SPACE, PARAMETER_SPACING)
        data = self.parameters[place]
        if isinstance(data, TensorMap) or offset + size > len(data):
            raise PtxError(f"parameter {place} has no {size} bytes at {offset}")
        return np.frombuffer(data, np.uint8)[offset : offset + size]

    def tensor_map(self, handle: int) -> TensorMap:
        """The parameter that a handle, its address, names."""
        place = (handle - PARAMETER_SPACE) // PARAMETER_SPACING
        tensor = self.parameters[place]
        if not isinstance(tensor, TensorMap):
            raise PtxError(f"parameter {place} is no tensor map")
        return tensor


class Blocked(Exception):
    """The warp waits for others; it will try the same instruction again."""
