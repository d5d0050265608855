"""What the warps of a block share, and what all warps of a launch share."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from genrec_kernels.ptx_emulator.arithmetic import Lanes
from genrec_kernels.ptx_emulator.memory import GlobalMemory, SharedMemory, TensorMap
from genrec_kernels.ptx_emulator.program import Program, PtxError

LANES = 32
#: Parameters are addressed by this and their place.
PARAMETER_SPACE = 1 << 60
PARAMETER_SPACING = 1 << 16


@dataclass
class Block:
    """What the warps of a block share."""

    index: int
    shared: SharedMemory = field(default_factory=SharedMemory)
    #: How many threads wait at a named barrier, and how often it was passed.
    waiting: dict[int, int] = field(default_factory=dict)
    passed: dict[int, int] = field(default_factory=dict)


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
