"""Triton launches on the current device, which need not be that of a call's tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device_of(x: Tensor) -> AbstractContextManager[None]:
    """A context in which the tensor's GPU is the current one; nothing for a CPU tensor."""
    if not x.is_cuda:
        return nullcontext()
    guard: AbstractContextManager[None] = torch.cuda.device(x.device)
    return guard
