"""What came last is kept, as far as its size allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class SizedLru(Generic[Key, Value]):
    """Values by key, of which the least recently used leave first. Not for several threads.

    `size` is the sum of all sizes.

    Args:
        most: of `size`.
        size_of: size of a value, when it is put in.
        least: values that are kept however large they are.
    """

    def __init__(self, most: int, size_of: Callable[[Value], int], *, least: int = 1) -> None:
        self.most = most
        self._size_of = size_of
        self._least = least
        self.size = 0
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Key]:
        """The last used one comes last."""
        return iter(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def get(self, key: Key) -> Value | None:
        """The value, which is the last used one now."""
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def put(self, key: Key, value: Value) -> None:
        """In place of the key's value, if there is one."""
        self.pop(key)
        size = self._size_of(value)
        self._entries[key] = (value, size)
        self.size += size
        while self.size > self.most and len(self._entries) > self._least:
            self.pop(next(iter(self._entries)))

    def pop(self, key: Key) -> Value | None:
        """Take a value out."""
        if key not in self._entries:
            return None
        value, size = self._entries.pop(key)
        self.size -= size
        return value

    def values(self) -> Iterator[Value]:
        """The last used one comes last."""
        return (value for value, _ in self._entries.values())
