"""One budget of GPU memory for users' keys and values and for hot item rows: who gets more.

Each side remembers what it lately had to drop, as much as a step of memory would have kept. What
is asked for again of that would have been a hit, and a hit saves time: recomputing a page of keys
and values, or bringing a row over the link. The side whose next step saves more time takes one
from the other, a step at a time, within bounds, and only after it was ahead several times.

This decides; moving the memory is its user's work. What was remembered tells what one step would
bring, not two: until a step is taken, the next one is not known to pay.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

_log = logging.getLogger(__name__)


class Dropped:
    """What a cache dropped last, and how often that was missed.

    Args:
        entries: remembered: as many as one step of memory holds.
    """

    def __init__(self, entries: int) -> None:
        self._entries = entries
        self._keys: OrderedDict[Hashable, None] = OrderedDict()
        self._missed = 0

    def drop(self, keys: Iterable[Hashable]) -> None:
        """These left the cache, or were refused by it."""
        for key in keys:
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > self._entries:
            self._keys.popitem(last=False)

    def ask(self, keys: Iterable[Hashable]) -> None:
        """These were asked for and not found."""
        for key in keys:
            if key in self._keys:
                del self._keys[key]
                self._missed += 1

    def take_missed(self) -> int:
        """Hits that one more step of memory would have brought since the last call."""
        missed, self._missed = self._missed, 0
        return missed


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """Bounds of the tuner.

    Args:
        step: bytes that move at once.
        least_kv, least_rows: bytes that each side keeps.
        lead: by which factor the other side's benefit must be exceeded.
        patience: updates in a row in which it must be, before a step is taken.

    Raises:
        ValueError: a value is out of range.
    """

    step: int
    least_kv: int
    least_rows: int
    lead: float = 1.25
    patience: int = 3

    def __post_init__(self) -> None:
        if self.step < 1 or min(self.least_kv, self.least_rows) < 0:
            raise ValueError("step must be at least 1 byte, and no bound below 0")
        if self.lead < 1 or self.patience < 1:
            raise ValueError("lead and patience must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Bytes of each side; their sum never changes."""

    kv: int
    rows: int


class SplitTuner:
    """Moves the split by what a step would save.

    Args:
        start: the split to begin with.
        settings: bounds.

    Raises:
        ValueError: the start is out of the bounds.
    """

    def __init__(self, start: Split, settings: SplitSettings) -> None:
        if start.kv < settings.least_kv or start.rows < settings.least_rows:
            raise ValueError(f"{start} gives a side less than its bound")
        self.split = start
        self._settings = settings
        # Updates in a row in which KV was ahead; below 0: in which the rows were.
        self._lead = 0

    def update(self, *, kv_saves: float, rows_save: float) -> Split:
        """Decide after an interval.

        Args:
            kv_saves, rows_save: milliseconds that one step more would have saved each side in the
                interval: hits missed (:class:`Dropped`) times the time of one. They are compared
                with each other only.

        Returns:
            The split from here on.

        Raises:
            ValueError: a value is negative or no number.
        """
        if not (kv_saves >= 0 and rows_save >= 0):
            raise ValueError(f"savings must be at least 0 ms, not {kv_saves} and {rows_save}")
        lead = self._settings.lead
        if kv_saves > lead * rows_save:
            self._lead = max(self._lead, 0) + 1
        elif rows_save > lead * kv_saves:
            self._lead = min(self._lead, 0) - 1
        else:
            self._lead = 0
        if abs(self._lead) >= self._settings.patience:
            self._move(kv_saves, rows_save)
        return self.split

    def _move(self, kv_saves: float, rows_save: float) -> None:
        before, to_kv = self.split, self._lead > 0
        room = (
            before.rows - self._settings.least_rows
            if to_kv
            else before.kv - self._settings.least_kv
        )
        moved = min(self._settings.step, room)
        self._lead = 0
        if moved <= 0:
            return
        signed = moved if to_kv else -moved
        self.split = Split(kv=before.kv + signed, rows=before.rows - signed)
        _log.info(
            "%.1f MB of GPU memory go to %s: a step would have saved %.3g ms for keys and values, "
            "%.3g ms for item rows",
            moved / 1e6,
            "keys and values" if to_kv else "item rows",
            kv_saves,
            rows_save,
        )
