"""Messages on a stream: four bytes of length, then the message.

It is what `multiprocessing.connection` writes and reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_LENGTH = struct.Struct("!i")


def length_of(message: bytes) -> bytes:
    """What goes before a message of less than 2 GiB."""
    return _LENGTH.pack(len(message))


def frame(message: bytes) -> bytes:
    """A message as the stream has it."""
    return length_of(message) + message


class FrameReader:
    """Finds messages in what a stream gives, however it is cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole now."""
        rest = self._rest
        rest += data
        at = 0
        try:
            while len(rest) >= at + _LENGTH.size:
                start = at + _LENGTH.size
                end = start + _LENGTH.unpack_from(rest, at)[0]
                if len(rest) < end:
                    return
                at = end
                yield bytes(memoryview(rest)[start:end])
        finally:
            del rest[:at]
