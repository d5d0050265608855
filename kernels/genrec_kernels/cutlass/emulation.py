"""Runs a compiled kernel on the CPU, from its PTX, with the parameters of a launch."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec_kernels.cutlass.parameters import Boxes, Memory, Parameter, Sizes
from genrec_kernels.ptx_emulator import Kernel, TensorMap
from genrec_kernels.ptx_emulator.kernel import Argument


def emulate(
    kernel: Kernel,
    parameters: Sequence[Parameter],
    *,
    blocks: int,
    seed: int = 0,
    cluster: int = 1,
) -> None:
    """As `library.launch`, on tensors in the CPU's memory.

    Args:
        kernel: from the PTX that `build.compile_variant` gives.
        parameters: as for a launch; outputs are written in place.
        blocks: of the grid.
        seed: of the order in which warps and copies take turns.
        cluster: blocks of one.
    """
    arguments = [_argument(parameter) for parameter in parameters]
    kernel.launch(arguments, blocks=blocks, seed=seed, cluster=cluster)


def _argument(parameter: Parameter) -> Argument:
    if isinstance(parameter, Boxes):
        bits = _bits(parameter.tensor)
        box = (*[1] * (bits.ndim - 2), parameter.rows, parameter.columns)
        return TensorMap(bits, box, parameter.span)
    if isinstance(parameter, Sizes):
        return struct.pack(f"<{len(parameter.numbers)}q", *parameter.numbers)
    if isinstance(parameter, Memory):
        x = _memory(parameter.tensor)
        array = _bits(x) if x.is_floating_point() and x.element_size() == 2 else x.numpy()
        return (array, *parameter.numbers)
    return parameter


def _memory(x: Tensor) -> Tensor:
    """What lies between a tensor's first and last element, as a vector."""
    if x.numel() == 0:
        return x.reshape(-1)
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((last + 1,), (1,))


def _bits(x: Tensor) -> NDArray[np.uint16] | NDArray[np.uint8]:
    """The memory of floats of 16 or 8 bits."""
    if x.element_size() == 1:
        array: NDArray[np.uint8] = x.view(torch.uint8).numpy()
        return array
    words: NDArray[np.uint16] = x.view(torch.int16).numpy().view(np.uint16)
    return words
