"""Memory of the host that a GPU reads by address: pinned, so that it stays where it is.

A table of tens of gigabytes is taken in huge pages and touched by several threads before it is
pinned: on a host with an H200 that took 1.4 s for 25.6 GB, CUDA's own allocator 13 s.
"""
# mypy: allow-untyped-calls

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

#: Pinned at once at most: a failure then says how far the host's limit reaches.
PIECE = 4 << 30

_PAGE = mmap.PAGESIZE
_TOUCHING_THREADS = 16


class PinFailed(RuntimeError):
    """Memory could not be pinned; the message says why."""


def allocate(num_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Zeros [num_rows, width] in huge pages, not pinned yet.

    Raises:
        OSError: there is not so much memory.
    """
    num_bytes = num_rows * width * dtype.itemsize
    if num_bytes == 0:
        return torch.zeros(num_rows, width, dtype=dtype)
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    flat = torch.frombuffer(memory, dtype=torch.uint8)
    share = -(-num_bytes // _TOUCHING_THREADS)

    def touch(start: int) -> None:
        flat[start : start + share : _PAGE] = 0

    with ThreadPoolExecutor(min(_TOUCHING_THREADS, os.cpu_count() or 1)) as pool:
        list(pool.map(touch, range(0, num_bytes, share)))
    return flat.view(dtype).view(num_rows, width)


def pin(memory: Tensor) -> Callable[[], None]:
    """Pin a tensor's memory where it is, in pieces.

    Returns:
        A function that takes the pinning back, once nothing on a GPU can be reading the memory.
        It keeps the tensor alive until then.

    Raises:
        PinFailed: there is no GPU, or the host refused; nothing is pinned then.
    """
    if not torch.cuda.is_available():
        raise PinFailed("there is no GPU to pin memory for")
    if not memory.is_contiguous():
        raise PinFailed("only contiguous memory can be pinned")
    runtime = torch.cuda.cudart()
    start, size = memory.data_ptr(), memory.numel() * memory.element_size()
    done: list[int] = []
    for at in range(start, start + size, PIECE):
        error = runtime.cudaHostRegister(at, min(PIECE, start + size - at), 0)
        if int(error) != 0:
            _unpin(memory, done)
            raise PinFailed(
                f"pinning stopped after {(at - start) / 1e9:.1f} of {size / 1e9:.1f} GB "
                f"(CUDA error {int(error)}): see `ulimit -l` and the free memory"
            )
        done.append(at)
    return partial(_unpin, memory, done)


def _unpin(memory: Tensor, pieces: list[int]) -> None:
    assert not pieces or memory.data_ptr() <= pieces[0]
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            torch.cuda.synchronize(device)
    while pieces:
        torch.cuda.cudart().cudaHostUnregister(pieces.pop())
