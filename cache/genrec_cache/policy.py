"""Which items deserve a slot: decided once a batch, from exact counters of dense ids.

An item that was missed is not simply inserted. After each batch the residents and the items that
the batch used are ranked by the learnt chance of their next use (:mod:`genrec_cache.reuse_model`).
A newcomer takes a resident's slot only if it is better by a margin, and only so many rows are
copied a batch. Items of batches that are already queued can be announced: they come first.

Letters in shapes: V ids, K ids of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec_cache.reuse_model import ReuseModel, features

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

# Log odds that an announced item is ahead of every other by: its use is certain.
_ANNOUNCED = 100.0


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """One setting for all data sets.

    Args:
        fast_half_life, slow_half_life: of the use counts, in batches.
        margin: log odds by which a newcomer must beat the resident whose slot it takes.
        max_copies: rows copied a batch at most, beyond those that fill free slots; None: no bound.
        sample: ids that the model learns from after a batch.
        memory, trust: see :class:`ReuseModel`.

    Raises:
        ValueError: a half-life, `sample` or `memory` is out of range, or a bound is negative.
    """

    fast_half_life: float = 16.0
    slow_half_life: float = 128.0
    margin: float = 0.93
    max_copies: int | None = None
    sample: int = 4096
    memory: float = 0.97
    trust: float = 30.0

    def __post_init__(self) -> None:
        if min(self.fast_half_life, self.slow_half_life) <= 0 or self.sample < 1:
            raise ValueError("half-lives must be above 0 batches, and the sample at least 1 id")
        if not 0 < self.memory <= 1 or self.trust <= 0:
            raise ValueError("memory must be in (0, 1], and trust above 0")
        if min(self.margin, self.max_copies or 0) < 0:
            raise ValueError("margin and max_copies must not be negative")


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
        self._last = np.full(num_ids, -1, np.int64)
        self._fast = np.zeros(num_ids)
        self._slow = np.zeros(num_ids)

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
        return Plan(evict=np.zeros(0, np.int64), admit=best)

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
        self._learn(used)
        self._count(used)
        if not self.capacity:
            return Plan(evict=used[:0], admit=used[:0])
        candidate = self.resident.copy()
        candidate[used] = True
        if ahead is not None:
            candidate[ahead] = True
        ids = np.flatnonzero(candidate)
        score = self._model.score(self._features(ids))
        if ahead is not None:
            score[np.isin(ids, ahead, assume_unique=True)] += _ANNOUNCED
        plan = self._choose(ids, score, locked)
        self.resident[plan.evict] = False
        self.resident[plan.admit] = True
        return plan

    def _choose(self, ids: Ints, score: NDArray[np.float64], locked: Mask | None) -> Plan:
        inside = self.resident[ids]
        movable = inside if locked is None else inside & ~locked[ids]
        best_first = np.argsort(-score[~inside], kind="stable")
        newcomers, promise = ids[~inside][best_first], score[~inside][best_first]
        free = self.capacity - int(inside.sum())
        swaps = newcomers[free:]
        worst_first = np.argsort(score[movable], kind="stable")
        residents, worth = ids[movable][worst_first], score[movable][worst_first]
        pairs = min(len(swaps), len(residents))
        # Promise falls and worth rises along the pairs, so the good swaps are a prefix.
        good = promise[free : free + pairs] > worth[:pairs] + self.settings.margin
        number = int(good.sum())
        if self.settings.max_copies is not None:
            number = min(number, self.settings.max_copies)
        return Plan(evict=residents[:number], admit=newcomers[: free + number])

    def _features(self, ids: Ints) -> NDArray[np.float64]:
        age = np.maximum(self._now - self._last[ids], 0).astype(np.float64)
        fast = self._fast[ids] * 0.5 ** (age / self.settings.fast_half_life)
        slow = self._slow[ids] * 0.5 ** (age / self.settings.slow_half_life)
        # Ids that were never used look as old as can be.
        never = self._last[ids] < 0
        return features(fast, slow, np.where(never, 2.0**40, age))

    def _learn(self, used: Ints) -> None:
        """Compare what the model expected of some ids with what the batch used."""
        if self.num_ids <= self.settings.sample:
            asked = np.flatnonzero(self._last >= 0)
        else:
            drawn = self._rng.integers(0, self.num_ids, self.settings.sample)
            asked = drawn[self._last[drawn] >= 0]
        hit = np.zeros(self.num_ids, np.bool_)
        hit[used] = True
        self._model.learn(self._features(asked), hit[asked])

    def _count(self, used: Ints) -> None:
        self._now += 1
        age = np.maximum(self._now - self._last[used], 0).astype(np.float64)
        self._fast[used] = self._fast[used] * 0.5 ** (age / self.settings.fast_half_life) + 1.0
        self._slow[used] = self._slow[used] * 0.5 ** (age / self.settings.slow_half_life) + 1.0
        self._last[used] = self._now
