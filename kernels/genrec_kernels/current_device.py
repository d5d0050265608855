"""Launches: on the device of a call's tensors, which Triton does not look at, and how early."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


def on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """A context in which the tensor's GPU is the current one; nothing for a CPU tensor."""
    if not x.is_cuda:
        return nullcontext()
    guard: AbstractContextManager[None] = torch.cuda.device(x.device)
    return guard


@cache
def starts_early(device: torch.device) -> bool:
    """Whether kernels there can be set up while those before them run (compute capability 9.0)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
