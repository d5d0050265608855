"""Which items deserve a slot: decided once a batch, from exact counters of dense ids.

An item that was missed is not simply inserted. After each batch the residents and the items that
the batch used are ranked by the learnt chance of their next use (:mod:`genrec_cache.reuse_model`).
A newcomer takes a resident's slot only if it is better by a margin, and only so many rows are
copied a batch. Items of batches that are already queued can be announced: they come first. In a
large cache only some of the residents are ranked after each batch, in turns, so that a batch costs
time by its own length and not by that of the table.

Letters in shapes: V ids, K ids of a batch, M residents, R residents whose turn it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_cache.reuse_model import ReuseModel, features
from genrec_cache.snapshot import State

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Log odds that an announced item is ahead of every other by: its use is certain.
_ANNOUNCED = 100.0
_OVERLAP_SAMPLE = 200_000


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """One setting for all data sets.

    Args:
        fast_half_life, slow_half_life: of the use counts, in batches.
        margin: log odds by which a newcomer must beat the resident whose slot it takes.
        max_copies: rows copied a batch at most, beyond those that fill free slots; None: no bound.
        copy_share: the same as a share of the batch's ids, not counting announced ones.
        contest: residents that defend their slots after a batch; where there are more, they take
            turns.
        sample: ids that the model learns from after a batch.
        memory, trust: see :class:`ReuseModel`.

    Raises:
        ValueError: a half-life, `contest`, `sample` or `memory` is out of range, or a bound is
            negative.
    """

    fast_half_life: float = 16.0
    slow_half_life: float = 128.0
    margin: float = 0.93
    max_copies: int | None = None
    copy_share: float = 0.1
    contest: int = 16_384
    sample: int = 4096
    memory: float = 0.97
    trust: float = 30.0

    def __post_init__(self) -> None:
        if min(self.fast_half_life, self.slow_half_life) <= 0:
            raise ValueError("half-lives must be above 0 batches")
        if min(self.contest, self.sample) < 1:
            raise ValueError("contest and sample must be at least 1 id")
        if not 0 < self.memory <= 1 or self.trust <= 0:
            raise ValueError("memory must be in (0, 1], and trust above 0")
        if min(self.margin, self.max_copies or 0, self.copy_share) < 0:
            raise ValueError("margin, max_copies and copy_share must not be negative")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What changes after a batch.

    Args:
        evict: residents that give up their slots.
        admit: ids that get one; never more than free slots and `evict` together.
    """

    evict: Ints
    admit: Ints


class HotSetPolicy:
    """Counters, model and resident set of one cache.

    Args:
        num_ids: V.
        capacity: slots; 0 is no cache, more than V is as good as V.
        settings: how it decides.

    Raises:
        ValueError: V is below 1 or the capacity below 0.
    """

    def __init__(self, num_ids: int, capacity: int, settings: PolicySettings | None = None) -> None:
        if num_ids < 1 or capacity < 0:
            raise ValueError(f"{num_ids} ids and {capacity} slots make no cache")
        self.settings = settings or PolicySettings()
        self.capacity = min(capacity, num_ids)
        self.resident: Mask = np.zeros(num_ids, np.bool_)
        self._model = ReuseModel(memory=self.settings.memory, trust=self.settings.trust)
        self._rng = np.random.default_rng(0)
        self._now = 0
        self._last = np.full(num_ids, -1, np.int32)
        # Filled, not just zero: a large table's pages are made now, and not while batches wait.
        self._fast = np.full(num_ids, 0.0, np.float32)
        self._slow = np.full(num_ids, 0.0, np.float32)
        # Residents in no order, [M]; the next turn begins at `_turn`.
        self._members: Ints = np.zeros(0, np.int64)
        self._turn = 0

    @property
    def num_ids(self) -> int:
        """V."""
        return len(self.resident)

    def grow(self, num_ids: int) -> None:
        """Take in ids that are new in the catalogue; known ones keep their counters.

        Raises:
            ValueError: there would be fewer ids than now.
        """
        more = num_ids - self.num_ids
        if more < 0:
            raise ValueError(f"a cache of {self.num_ids} ids cannot shrink to {num_ids}")
        self.resident = np.pad(self.resident, (0, more))
        self._last = np.pad(self._last, (0, more), constant_values=-1)
        self._fast = np.pad(self._fast, (0, more))
        self._slow = np.pad(self._slow, (0, more))

    def keep(self, residents: Ints) -> None:
        """Make these ids, and no others, the residents; counters stay.

        Raises:
            ValueError: there are more than slots.
        """
        if len(residents) > self.capacity:
            raise ValueError(f"{len(residents)} ids do not fit into {self.capacity} slots")
        self.resident[:] = False
        self.resident[residents] = True
        self._members = residents.copy()

    def warm(self, popularity: Ints) -> Plan:
        """Start from use counts of the training data; to be called before the first batch.

        Args:
            popularity: [V], at least 0.

        Returns:
            The most popular items, as many as there are slots.

        Raises:
            ValueError: another length, or the cache has run already.
        """
        if popularity.shape != (self.num_ids,) or self._now:
            raise ValueError("warm start: one count an id, before the first batch")
        known = np.flatnonzero(popularity > 0)
        # Scaled as if the counts were of one slow half-life: old data must not outweigh new.
        share = popularity[known] / max(1, int(popularity.max()))
        self._slow[known] = share * self.settings.slow_half_life
        self._fast[known] = share * self.settings.fast_half_life
        self._last[known] = 0
        best = known[np.argsort(-popularity[known], kind="stable")][: self.capacity]
        self.resident[best] = True
        self._members = best.copy()
        return Plan(evict=np.zeros(0, np.int64), admit=best)

    def state(self) -> State:
        """All that was learnt, for :mod:`genrec_cache.snapshot`; only ids that were used."""
        known = np.flatnonzero(self._last >= 0)
        weights, curvature = self._model.evidence
        return {
            "known": known,
            "last": self._last[known],
            "fast": self._fast[known],
            "slow": self._slow[known],
            "residents": np.sort(self._members),
            "weights": weights,
            "curvature": curvature,
            "now": np.array(self._now),
        }

    def restore(self, state: State) -> Plan:
        """Go on from a saved state; to be called before the first batch.

        Returns:
            The residents of then; the most promising ones where there are now fewer slots.

        Raises:
            ValueError: the cache has run already, or the state has ids that there are not here.
        """
        if self._now or len(self._members):
            raise ValueError("a saved state is restored before the first batch")
        known = np.asarray(state["known"], np.int64)
        residents = np.asarray(state["residents"], np.int64)
        for ids in (known, residents):
            if len(ids) and not 0 <= ids.min() <= ids.max() < self.num_ids:
                raise ValueError(f"the saved state knows ids beyond the {self.num_ids} here")
        self._last[known], self._now = state["last"], int(state["now"])
        self._fast[known], self._slow[known] = state["fast"], state["slow"]
        self._model.take_evidence(
            np.asarray(state["weights"], np.float64), np.asarray(state["curvature"], np.float64)
        )
        best = np.argsort(-self._promise(residents, None), kind="stable")[: self.capacity]
        self._members = residents[best]
        self.resident[self._members] = True
        return Plan(evict=known[:0], admit=self._members.copy())

    def after_batch(
        self, used: Ints, *, ahead: Ints | None = None, locked: Mask | None = None
    ) -> Plan:
        """Learn from a batch and decide what changes.

        Args:
            used: ids of the batch, [K], each once.
            ahead: ids of the next batch where it is known, each once.
            locked: [V], residents that a running batch still reads: they stay.

        Returns:
            The plan; `resident` already follows it.
        """
        asked = self._asked()
        seen = self._features(asked)
        self._count(used)
        self._model.learn(seen, self._last[asked] == self._now)
        return self._decide(used, ahead, locked)

    def announce(self, ahead: Ints, *, locked: Mask | None = None) -> Plan:
        """Make room for ids of batches to come, before any of them runs; nothing is learnt.

        Args:
            ahead, locked: as for `after_batch`.
        """
        return self._decide(ahead[:0], ahead, locked)

    def overlap(self) -> float:
        """Share of the hot set of late that is resident; 1.0 before the first batch.

        The hot set are the ids with the highest fast counts, as many as there are slots. In a
        large catalogue this looks at a sample of the ids.
        """
        ids = np.arange(0, self.num_ids, max(1, self.num_ids // _OVERLAP_SAMPLE))
        room = round(self.capacity * len(ids) / self.num_ids)
        ids = ids[self._last[ids] > 0]
        if not len(ids) or not room:
            return 1.0
        age = (self._now - self._last[ids]).astype(np.float64)
        fast = self._fast[ids] * 0.5 ** (age / self.settings.fast_half_life)
        return float(self.resident[ids[np.argsort(-fast, kind="stable")[:room]]].mean())

    def _decide(self, used: Ints, ahead: Ints | None, locked: Mask | None) -> Plan:
        if not self.capacity:
            return Plan(evict=used[:0], admit=used[:0])
        wanted = used if ahead is None else np.union1d(used, ahead)
        newcomers = wanted[~self.resident[wanted]]
        turn = self._next_turn()
        if locked is not None:
            turn = turn[~locked[self._members[turn]]]
        residents = self._members[turn]
        promise, worth = self._promise(newcomers, ahead), self._promise(residents, ahead)
        allowed = math.ceil(self.settings.copy_share * len(used))
        leaving, plan = self._choose(newcomers, promise, residents, worth, allowed)
        free = len(plan.admit) - len(leaving)
        self._members[turn[leaving]] = plan.admit[free:]
        if free:
            self._members = np.append(self._members, plan.admit[:free])
        self.resident[plan.evict] = False
        self.resident[plan.admit] = True
        return plan

    def _next_turn(self) -> Ints:
        """Positions in `_members` [R] of those that defend their slots, by ascending id."""
        count = len(self._members)
        if count <= self.settings.contest:
            return np.argsort(self._members)
        turn = (self._turn + np.arange(self.settings.contest)) % count
        self._turn = (self._turn + self.settings.contest) % count
        return turn[np.argsort(self._members[turn])]

    def _promise(self, ids: Ints, ahead: Ints | None) -> NDArray[np.float64]:
        score = self._model.score(self._features(ids))
        if ahead is not None:
            score[np.isin(ids, ahead, assume_unique=True)] += _ANNOUNCED
        return score

    def _choose(
        self,
        newcomers: Ints,
        promise: NDArray[np.float64],
        residents: Ints,
        worth: NDArray[np.float64],
        allowed: int,
    ) -> tuple[Ints, Plan]:
        """Which residents leave, as positions in `residents`, and the plan.

        `allowed` bounds the swaps for newcomers that are not announced.
        """
        best_first = np.argsort(-promise, kind="stable")
        newcomers, promise = newcomers[best_first], promise[best_first]
        free = min(self.capacity - len(self._members), len(newcomers))
        worst_first = np.argsort(worth, kind="stable")
        pairs = min(len(newcomers) - free, len(residents))
        # Promise falls and worth rises along the pairs, so the good swaps are a prefix.
        good = promise[free : free + pairs] > worth[worst_first[:pairs]] + self.settings.margin
        announced = int((promise[free:] > _ANNOUNCED / 2).sum())
        number = min(int(good.sum()), announced + allowed)
        if self.settings.max_copies is not None:
            number = min(number, self.settings.max_copies)
        leaving = worst_first[:number]
        return leaving, Plan(evict=residents[leaving], admit=newcomers[: free + number])

    def _features(self, ids: Ints) -> NDArray[np.float64]:
        age = np.maximum(self._now - self._last[ids], 0).astype(np.float64)
        fast = self._fast[ids] * 0.5 ** (age / self.settings.fast_half_life)
        slow = self._slow[ids] * 0.5 ** (age / self.settings.slow_half_life)
        # Ids that were never used look as old as can be.
        never = self._last[ids] < 0
        return features(fast, slow, np.where(never, 2.0**40, age))

    def _asked(self) -> Ints:
        """Known ids of which the model says how likely they are, to be told what happened."""
        if self.num_ids <= self.settings.sample:
            return np.flatnonzero(self._last >= 0)
        drawn = self._rng.integers(0, self.num_ids, self.settings.sample)
        return drawn[self._last[drawn] >= 0]

    def _count(self, used: Ints) -> None:
        self._now += 1
        age = np.maximum(self._now - self._last[used], 0).astype(np.float64)
        self._fast[used] = self._fast[used] * 0.5 ** (age / self.settings.fast_half_life) + 1.0
        self._slow[used] = self._slow[used] * 0.5 ** (age / self.settings.slow_half_life) + 1.0
        self._last[used] = self._now
