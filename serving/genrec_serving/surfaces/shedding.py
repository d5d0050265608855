"""Who is refused while more come than can be answered: the same users for a while, not anybody.

What a refused user did in the meantime has to be computed when they are answered at last, so that
refusing anybody makes every answer dearer the more is refused: the server answers less, the more
come. Those who are answered again and again have most of their history in the cache. So each user
has a place on a ring that turns once in a period, and the first part of it is answered: as much of
it as the server was able to answer just before (see DAGOR, arXiv 1806.04075, which sheds whole
users by a hash that changes with time).
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable

#: Seconds in which everybody has their turn.
PERIOD_S = 60.0
#: Seconds after which the share is looked at again.
_WINDOW_S = 0.5
#: By which the share grows in a window in which nobody was refused.
_GROWTH = 1.1
#: To which it is cut at most in a window in which more came than fitted: what fits is not known
#: well, and what is cut too deep takes as long to grow again.
_CUT = 0.7
#: Never fewer than one in a hundred, so that it is found out when there is room again.
_LEAST = 0.01
#: Share of the longest wait beyond which no more are let in.
_ENOUGH = 0.5


class Shedding:
    """The share of users who may ask now. Used from one event loop.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._share = 1.0
        self._window_ends = clock() + _WINDOW_S
        self._passed = self._turned_away = 0
        self._pressure = 0.0
        self._was_full = False
        self._nobodies = itertools.count()

    @property
    def share(self) -> float:
        """Of the users, between 0 and 1."""
        return self._share

    def turn_in_s(self, user: bytes | None) -> float:
        """Seconds until it is a user's turn; 0 now.

        Args:
            user: what they are known by; None for somebody, whoever it is.
        """
        self._look()
        if self._share >= 1:
            return 0.0
        number = zlib.crc32(user if user is not None else b"%d" % next(self._nobodies))
        place = (number / 2**32 + self._clock() / PERIOD_S) % 1.0
        return 0.0 if place < self._share else (1.0 - place) * PERIOD_S

    def passed(self, pressure: float) -> None:
        """One whose turn it was got in, or waits.

        Args:
            pressure: expected wait, as a share of the longest that is allowed.
        """
        self._passed += 1
        self._pressure = max(self._pressure, pressure)

    def turned_away(self) -> None:
        """One whose turn it was found no room all the same."""
        self._turned_away += 1

    def _look(self) -> None:
        now = self._clock()
        if now < self._window_ends:
            return
        # Windows in which nobody came were quiet too.
        quiet = min(int((now - self._window_ends) / _WINDOW_S), 1000)
        if self._turned_away:
            # A moment's burst is the queue's business.
            if self._was_full and not quiet:
                fitted = self._passed / (self._passed + self._turned_away)
                self._share = max(self._share * max(fitted, _CUT), _LEAST)
        elif self._pressure < _ENOUGH:
            quiet += 1
        self._was_full = bool(self._turned_away)
        self._share = min(self._share * _GROWTH**quiet, 1.0)
        self._window_ends = now + _WINDOW_S
        self._passed = self._turned_away = 0
        self._pressure = 0.0
