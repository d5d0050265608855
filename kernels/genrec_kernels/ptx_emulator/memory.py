"""Global and shared memory, barriers, and the tensor memory accelerator's copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Where tensors lie: far apart, so that a wrong address hits nothing.
_TENSOR_SPACING = 1 << 32
SHARED_BYTES = 227 * 1024


class MemoryFault(Exception):
    """An address that is in no tensor, or beyond shared memory."""


class GlobalMemory:
    """Tensors by address; reading or writing outside of one is a fault."""

    def __init__(self) -> None:
        self._tensors: list[Bytes] = []

    def place(self, array: NDArray[np.generic]) -> int:
        """Address of an array, which kernels then read and write in place."""
        self._tensors.append(array.reshape(-1).view(np.uint8))
        return len(self._tensors) * _TENSOR_SPACING

    def at(self, address: int, size: int) -> Bytes:
        """`size` bytes from an address, as a view."""
        tensor, offset = divmod(address, _TENSOR_SPACING)
        if not 1 <= tensor <= len(self._tensors):
            raise MemoryFault(f"address {address:#x} is in no tensor")
        data = self._tensors[tensor - 1]
        if offset + size > data.size:
            raise MemoryFault(f"{size} bytes from {offset} are outside of {data.size} bytes")
        return data[offset : offset + size]


@dataclass
class Barrier:
    """An mbarrier (PTX ISA, "mbarrier"): a phase ends when all have arrived and all bytes came."""

    expected: int
    pending: int
    bytes_due: int = 0
    phase: int = 0

    def arrive(self, count: int = 1) -> None:
        """Of `count` threads."""
        if count > self.pending:
            raise MemoryFault("more arrivals at a barrier than it expects")
        self.pending -= count
        self._end_phase()

    def expect_bytes(self, count: int) -> None:
        """The phase waits for these too."""
        self.bytes_due += count

    def bytes_came(self, count: int) -> None:
        """A copy is done. Bytes may come before the last to arrive says how many, not after."""
        self.bytes_due -= count
        if self.pending == 0 and self.bytes_due < 0:
            raise MemoryFault("more bytes at a barrier than it expects")
        self._end_phase()

    def _end_phase(self) -> None:
        if self.pending == 0 and self.bytes_due == 0:
            self.phase ^= 1
            self.pending = self.expected


class SharedMemory:
    """A block's: bytes, and the barriers among them. It starts as NaN, not as zeros."""

    def __init__(self) -> None:
        self.data: Bytes = np.full(SHARED_BYTES, 0xFF, np.uint8)
        self._barriers: dict[int, Barrier] = {}

    def init_barrier(self, address: int, count: int) -> None:
        """For `count` arrivals a phase."""
        self._barriers[address] = Barrier(count, count)

    def barrier(self, address: int) -> Barrier:
        """The barrier at an address."""
        if address not in self._barriers:
            raise MemoryFault(f"no barrier at {address}")
        return self._barriers[address]

    def end(self) -> None:
        """When the block ends: what was expected has come, and nothing else."""
        for address, barrier in self._barriers.items():
            if barrier.bytes_due:
                raise MemoryFault(f"{barrier.bytes_due} bytes still due at barrier {address}")

    def at(self, address: int, size: int) -> Bytes:
        """`size` bytes from an address, as a view."""
        if not 0 <= address <= SHARED_BYTES - size:
            raise MemoryFault(f"shared address {address}")
        return self.data[address : address + size]


def swizzled(addresses: NDArray[np.int64], span: int) -> NDArray[np.int64]:
    """Where shared memory holds what the layout puts at an address.

    Args:
        span: 128, 64 or 32 bytes: how far 16-byte units are permuted; 0 for not at all.
    """
    bits = {128: 3, 64: 2, 32: 1, 0: 0}[span]
    return addresses ^ ((addresses >> 3) & (((1 << bits) - 1) << 4))


@dataclass(frozen=True)
class TensorMap:
    """A tensor as the accelerator copies boxes of it (CUDA driver API, cuTensorMapEncodeTiled).

    Args:
        array: elements of 16 or 8 bits; the last axis is the first of the map's coordinates.
        box: elements of a box along each axis of `array`.
        span: bytes of the swizzle.
    """

    array: NDArray[np.uint16] | NDArray[np.uint8]
    box: tuple[int, ...]
    span: int

    @property
    def bytes_of_box(self) -> int:
        """That a copy brings, those outside of the tensor too."""
        return int(np.prod(self.box)) * self.array.itemsize

    def read(self, origin: tuple[int, ...]) -> NDArray[np.uint16] | NDArray[np.uint8]:
        """A box from `origin` (in the array's order of axes), zeros outside of the array."""
        out = np.zeros(self.box, self.array.dtype)
        source, target = [], []
        for first, size, length in zip(origin, self.box, self.array.shape, strict=True):
            begin, end = max(first, 0), max(min(first + size, length), 0)
            if begin >= end:
                return out
            source.append(slice(begin, end))
            target.append(slice(begin - first, end - first))
        out[tuple(target)] = self.array[tuple(source)]
        return out

    def copy_into(self, shared: SharedMemory, address: int, origin: tuple[int, ...]) -> None:
        """What one copy instruction does."""
        box = self.read(origin).reshape(-1).view(np.uint8)
        places = swizzled(address + np.arange(box.size, dtype=np.int64), self.span)
        shared.at(address, box.size)
        shared.data[places] = box
