"""Points in the work of a GPU that others may wait for, and copies that wait for nothing."""
# mypy: allow-untyped-calls

from __future__ import annotations

import torch
from torch import Tensor


class Fence:
    """All that a stream was given until now.

    Args:
        stream: of the GPU.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream
        # Blocking: a thread that waits gives its core away.
        self._event = torch.cuda.Event(blocking=True)
        self._event.record(stream)

    @property
    def passed(self) -> bool:
        """Whether it is done; does not wait."""
        return bool(self._event.query())

    def wait(self) -> None:
        """Let this thread wait until it is done."""
        self._event.synchronize()

    def hold(self, stream: torch.cuda.Stream) -> None:
        """Let what a stream is given from here on wait until it is done."""
        if stream != self.stream:
            stream.wait_event(self._event)


def new_stream(device: torch.device) -> torch.cuda.Stream:
    """A stream of its own."""
    return torch.cuda.Stream(device)


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, copied there in the order of the current stream; nothing waits.

    From memory that is not pinned CUDA copies more than some kilobytes only once the GPU gets
    there, so they are put into pinned memory first.
    """
    if device.type != "cuda" or numbers.is_cuda:
        return numbers.to(device)
    return numbers.pin_memory().to(device, non_blocking=True)


def sent_back(numbers: Tensor) -> Tensor:
    """A tensor on its way to the CPU, in the order of the current stream; nothing waits.

    Whoever reads it waits first for a point of that stream after this one.
    """
    if not numbers.is_cuda:
        return numbers
    pinned = torch.empty_like(numbers, device="cpu", pin_memory=True)
    return pinned.copy_(numbers, non_blocking=True)
