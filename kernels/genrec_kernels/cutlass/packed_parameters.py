"""A launch's parameters as the CUDA driver reads them: bytes on the host, and their addresses."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from genrec_kernels.cutlass.parameters import Boxes, Memory, Parameter, Sizes

_WORD = 8


class PackedParameters:
    """Parameters in one piece of memory; it must live until the launch was queued.

    Args:
        parameters: of a launch.
        describe: makes a TMA descriptor, which has its address as `getPtr()`.
    """

    def __init__(self, parameters: Sequence[Parameter], describe: Callable[[Boxes], Any]) -> None:
        data = bytearray(_WORD * len(parameters))
        places: list[int] = []
        self._descriptors: list[Any] = []
        for parameter in parameters:
            if isinstance(parameter, Boxes):
                self._descriptors.append(describe(parameter))
                places.append(-1)
            else:
                places.append(len(data))
                data += _bytes_of(parameter)
        self._memory = np.frombuffer(data, np.uint8)
        base = self._memory.ctypes.data
        descriptors = iter(self._descriptors)
        addresses = [base + p if p >= 0 else int(next(descriptors).getPtr()) for p in places]
        struct.pack_into(f"<{len(addresses)}Q", data, 0, *addresses)
        self.address = base
        """Of the addresses, one for each parameter."""


def _bytes_of(parameter: Sizes | Memory | int | float) -> bytes:
    """Whole words, so that every parameter begins at a multiple of 8."""
    if isinstance(parameter, Sizes):
        return struct.pack(f"<{len(parameter.numbers)}q", *parameter.numbers)
    if isinstance(parameter, Memory):
        numbers = parameter.numbers
        return struct.pack(f"<Q{len(numbers)}q", parameter.tensor.data_ptr(), *numbers)
    if isinstance(parameter, float):
        return struct.pack("<fi", parameter, 0)
    return struct.pack("<ii", parameter, 0)
