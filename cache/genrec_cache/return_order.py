"""Which user's pages leave first: those of whom the next visit is the least likely soon.

A page of keys and values is of use when its user comes back and what was before the page has not
changed. So users are ranked, not pages: by how often and how lately they came, with weights that
are learnt from who did come back (:mod:`genrec_cache.reuse_model`). The pages of one user leave
from the end. Pages that a longer history has made useless, as its window has moved, leave first.

Time is counted in pages that were asked for.

Letters in shapes: U users that are remembered, N users.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_cache.reuse_model import ReuseModel, features

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Users that are remembered for each page of the pool; with most of them none of the pages is.
_USERS_PER_PAGE = 4
_LEAST_USERS = 1024


@dataclass(frozen=True, kw_only=True)
class ReturnSettings:
    """One setting for all data sets.

    Args:
        fast_half_life, slow_half_life: of the visit counts, in pools of pages asked for.
        step: between two lessons, in pools of pages asked for.
        sample: chains of which the least promising one leaves.
        lesson: users that are learnt from at once.
        memory, trust: see :class:`ReuseModel`.
    """

    fast_half_life: float = 0.5
    slow_half_life: float = 8.0
    step: float = 0.25
    sample: int = 64
    lesson: int = 4096
    memory: float = 0.97
    trust: float = 30.0


class ReturnOrder:
    """Chains of pages that may leave, one a user: a history's whole pages, from its start.

    Args:
        pages: of the pool.
        settings: how it decides.
    """

    def __init__(self, pages: int, settings: ReturnSettings | None = None) -> None:
        self.settings = settings or ReturnSettings()
        self._halves = np.array([self.settings.fast_half_life, self.settings.slow_half_life])
        self._halves *= pages
        self._step = max(64.0, self.settings.step * pages)
        self._model = ReuseModel(memory=self.settings.memory, trust=self.settings.trust)
        self._rng = np.random.default_rng(0)
        self._now = 0.0
        users = max(_LEAST_USERS, _USERS_PER_PAGE * pages)
        self._user_of: dict[Hashable, int] = {}
        self._free = list(range(users - 1, -1, -1))
        self._last = np.full(users, -1.0)
        self._came_back = np.full(users, -1.0)
        self._counts = np.zeros((users, 2))
        self._chain_of: list[Hashable | None] = [None] * users
        # Chains in no order, and whose they are.
        self._chains: list[Hashable] = []
        self._owners: Ints = np.zeros(64, np.int64)
        self._place: dict[Hashable, int] = {}
        self._useless: list[Hashable] = []
        # Users, what was seen of them, and when: to be learnt from a step later.
        self._lesson: tuple[Ints, Floats, float] | None = None
        self._lesson_at = self._step

    def __len__(self) -> int:
        """Chains."""
        return len(self._chains)

    def visit(
        self, user: Hashable, chain: Hashable, pages: int, *, later: Iterable[Hashable] = ()
    ) -> None:
        """A user's request is answered; its pages are there.

        Args:
            user: names the user.
            chain: names the pages, until the start of the history changes.
            pages: of the chain, whole ones.
            later: other names of the user, of visits to come.
        """
        if self._now >= self._lesson_at:
            self._learn()
        index = self._index(user)
        age = max(0.0, self._now - self._last[index])
        self._counts[index] = self._counts[index] * 0.5 ** (age / self._halves) + 1.0
        self._last[index] = self._now
        before = self._chain_of[index]
        if before == chain:
            self._came_back[index] = self._now
        elif before is not None and before in self._place:
            self._useless.append(before)
        self._chain_of[index] = chain
        for name in later:
            self._user_of[name] = index
        self._now += pages
        if pages:
            self._put(chain, index)

    def victim(self) -> Hashable | None:
        """The chain whose last page should leave; None where there is none.

        It stays until it is dropped.
        """
        while self._useless:
            if self._useless[-1] in self._place:
                return self._useless[-1]
            self._useless.pop()
        count = len(self._chains)
        if not count:
            return None
        sample = self.settings.sample
        drawn = np.arange(count) if count <= sample else self._rng.integers(0, count, sample)
        score = self._model.score(self._seen(self._owners[drawn]))
        return self._chains[int(drawn[score.argmin()])]

    def drop(self, chain: Hashable) -> None:
        """Nothing is left of a chain."""
        place = self._place.pop(chain)
        last, owner = self._chains.pop(), self._owners[len(self._chains)]
        if last != chain:
            self._chains[place], self._owners[place] = last, owner
            self._place[last] = place

    def _put(self, chain: Hashable, index: int) -> None:
        place = self._place.get(chain)
        if place is None:
            place = self._place[chain] = len(self._chains)
            self._chains.append(chain)
            if place == len(self._owners):
                self._owners = np.concatenate([self._owners, np.zeros_like(self._owners)])
        self._owners[place] = index

    def _index(self, user: Hashable) -> int:
        index = self._user_of.get(user)
        if index is None:
            if not self._free:
                self._forget()
            index = self._user_of[user] = self._free.pop()
        return index

    def _forget(self) -> None:
        """Forget the half of the users who were not seen for the longest time.

        Their pages, if there are any, count as those of nobody.
        """
        old = np.argsort(self._last, kind="stable")[: len(self._last) // 2]
        gone = set(old.tolist())
        self._user_of = {name: i for name, i in self._user_of.items() if i not in gone}
        self._last[old] = self._came_back[old] = -1.0
        self._counts[old] = 0.0
        for index in gone:
            chain, self._chain_of[index] = self._chain_of[index], None
            if chain in self._place:
                self._useless.append(chain)
        self._free = list(gone)
        self._lesson = None

    def _learn(self) -> None:
        if self._lesson is not None:
            users, seen, since = self._lesson
            self._model.learn(seen, self._came_back[users] >= since)
        known = np.flatnonzero(self._last >= 0)
        if len(known) > self.settings.lesson:
            known = self._rng.choice(known, self.settings.lesson, replace=False)
        self._lesson = known, self._seen(known), self._now
        self._lesson_at = self._now + self._step

    def _seen(self, users: Ints) -> Floats:
        age = np.maximum(self._now - self._last[users], 0.0)
        faded = self._counts[users] * 0.5 ** (age[:, None] / self._halves)
        return features(faded[:, 0], faded[:, 1], age)
