"""Replays of an access stream: hits of each policy by access and by batch.

By access: ids come one after another, each is a hit or a miss. By batch, as in serving: the unique
ids of a batch are looked up together, a hit is one that was resident before the batch, and rows
are copied after it. LRU, LFU and the optimum then rank residents and batch together; the queues of
S3-FIFO, SIEVE and W-TinyLFU take the batch's ids one by one, in ascending order.

Letters in shapes: N accesses, K unique ids of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genrec_cache.access_policy import access_hits
from genrec_cache.optimum import optimum_hits
from genrec_cache.policy import HotSetPolicy, PolicySettings
from genrec_cache.reference_policies import REFERENCES

Ints = NDArray[np.int64]

POLICIES = ("genrec", *REFERENCES, "optimum")
# Of batches only: told of the next batch, and the count with one half-life to be measured against.
BATCH_POLICIES = (*POLICIES, "genrec-lookahead", "decayed-lfu")
_DECAYED_HALF_LIFE = 8.0


@dataclass(frozen=True, kw_only=True)
class BatchHits:
    """What a replay by batch found.

    Args:
        unique_hit_rate: unique ids that were resident, of all unique ids.
        copies_per_batch: rows copied into the cache, mean over batches.
    """

    unique_hit_rate: float
    copies_per_batch: float


@dataclass(frozen=True, kw_only=True)
class ReplayRow:
    """One policy at one size.

    Args:
        policy: one of :data:`BATCH_POLICIES`.
        size: slots as a share of the items.
        hit_rate: hits of all accesses; None for a policy of batches only.
        unique_hit_rate, copies_per_batch: see :class:`BatchHits`; None without batches.
        seconds: that the replays took.
    """

    policy: str
    size: float
    hit_rate: float | None
    unique_hit_rate: float | None
    copies_per_batch: float | None
    seconds: float


def replay(
    stream: Ints, batches: Sequence[Ints], num_ids: int, *, policy: str, size: float
) -> ReplayRow:
    """One row of the comparison.

    Args:
        stream: ids in [0, num_ids) in the order of their accesses, [N].
        batches: unique ids of each batch in order, each [K].
        num_ids: of the catalogue.
        policy: one of :data:`BATCH_POLICIES`.
        size: slots as a share of the items, above 0.

    Raises:
        ValueError: the policy is unknown, or the size is not above 0.
    """
    if size <= 0:
        raise ValueError(f"a cache of {size:g} of the items holds nothing")
    capacity = max(1, round(size * num_ids))
    start = time.perf_counter()
    by_access = (
        hit_rate(stream, num_ids, capacity, policy=policy)
        if policy in POLICIES and len(stream)
        else None
    )
    by_batch = batch_hits(batches, num_ids, capacity, policy=policy) if batches else None
    return ReplayRow(
        policy=policy,
        size=size,
        hit_rate=by_access,
        unique_hit_rate=None if by_batch is None else by_batch.unique_hit_rate,
        copies_per_batch=None if by_batch is None else by_batch.copies_per_batch,
        seconds=time.perf_counter() - start,
    )


def hit_rate(stream: Ints, num_ids: int, capacity: int, *, policy: str) -> float:
    """Hits of all accesses, starting with an empty cache.

    Raises:
        ValueError: the policy is none of :data:`POLICIES`, or the stream is empty.
    """
    if not len(stream):
        raise ValueError("a stream without accesses has no hit rate")
    if policy == "genrec":
        hits = access_hits(stream, num_ids, capacity)
    elif policy == "optimum":
        hits = optimum_hits(stream, capacity)
    elif policy in REFERENCES:
        access = REFERENCES[policy](capacity).access
        hits = sum(map(access, stream.tolist()))
    else:
        raise ValueError(f"policy {policy!r} is unknown: use one of {', '.join(POLICIES)}")
    return hits / len(stream)


def batch_hits(
    batches: Sequence[Ints],
    num_ids: int,
    capacity: int,
    *,
    policy: str,
    settings: PolicySettings | None = None,
) -> BatchHits:
    """Replay by batch, starting with an empty cache.

    Args:
        batches: unique ids of each batch in order, each [K].
        num_ids: of the catalogue.
        capacity: slots, at least 1.
        policy: one of :data:`BATCH_POLICIES`.
        settings: of the project's policy.

    Raises:
        ValueError: the policy is unknown, or there are no batches.
    """
    if not batches or not sum(map(len, batches)):
        raise ValueError("without batches there is nothing to replay")
    if policy in ("genrec", "genrec-lookahead"):
        return _ours(batches, num_ids, capacity, settings, ahead=policy != "genrec")
    if policy == "optimum":
        return _ranked(batches, num_ids, capacity, _NextUse(batches, num_ids))
    if policy == "lru":
        return _ranked(batches, num_ids, capacity, _LastUse(num_ids))
    if policy == "lfu":
        return _ranked(batches, num_ids, capacity, _Count(num_ids, half_life=math.inf))
    if policy == "decayed-lfu":
        return _ranked(batches, num_ids, capacity, _Count(num_ids, half_life=_DECAYED_HALF_LIFE))
    if policy in REFERENCES:
        return _reference(batches, capacity, policy)
    raise ValueError(f"policy {policy!r} is unknown: use one of {', '.join(BATCH_POLICIES)}")


def _ours(
    batches: Sequence[Ints],
    num_ids: int,
    capacity: int,
    settings: PolicySettings | None,
    *,
    ahead: bool,
) -> BatchHits:
    policy = HotSetPolicy(num_ids, capacity, settings)
    hits = copies = 0
    for number, used in enumerate(batches):
        hits += int(policy.resident[used].sum())
        queued = batches[number + 1] if ahead and number + 1 < len(batches) else None
        copies += len(policy.after_batch(used, ahead=queued).admit)
    return _result(batches, hits, copies)


def _reference(batches: Sequence[Ints], capacity: int, name: str) -> BatchHits:
    """A policy of single accesses: every id of a batch is one access, after the hits are counted.

    A copy is an id that is resident after a batch and was not before.
    """
    policy = REFERENCES[name](capacity)
    hits = copies = 0
    for used in batches:
        ids = used.tolist()
        missed = [item for item in ids if item not in policy]
        hits += len(ids) - len(missed)
        for item in ids:
            policy.access(item)
        copies += sum(item in policy for item in missed)
    return _result(batches, hits, copies)


class _Worth(Protocol):
    """Ranks ids after each batch."""

    def after(self, used: Ints) -> NDArray[np.float64]:
        """Worth of every id after a batch of these ids."""


class _NextUse:
    """Rank by the batch of the next use, soonest first."""

    def __init__(self, batches: Sequence[Ints], num_ids: int) -> None:
        self._next: list[Ints] = []
        self._due = np.full(num_ids, len(batches), np.int64)
        for number in range(len(batches) - 1, -1, -1):
            self._next.append(self._due[batches[number]])
            self._due[batches[number]] = number
        self._due[:] = len(batches)

    def after(self, used: Ints) -> NDArray[np.float64]:
        """Worth of every id after a batch."""
        self._due[used] = self._next.pop()
        return -self._due.astype(np.float64)


class _LastUse:
    """Rank by the batch of the last use, latest first."""

    def __init__(self, num_ids: int) -> None:
        self._last = np.full(num_ids, -1.0)
        self._now = 0

    def after(self, used: Ints) -> NDArray[np.float64]:
        """Worth of every id after a batch."""
        self._now += 1
        self._last[used] = self._now
        return self._last


class _Count:
    """Rank by the number of batches that used an id, each worth half after a half-life."""

    def __init__(self, num_ids: int, *, half_life: float) -> None:
        self._count = np.zeros(num_ids)
        self._decay = 0.5 ** (1.0 / half_life)

    def after(self, used: Ints) -> NDArray[np.float64]:
        """Worth of every id after a batch."""
        self._count *= self._decay
        self._count[used] += 1.0
        return self._count


def _ranked(batches: Sequence[Ints], num_ids: int, capacity: int, worth: _Worth) -> BatchHits:
    """After each batch keep the best of the residents and the batch; residents win ties."""
    resident = np.zeros(num_ids, np.bool_)
    hits = copies = 0
    for used in batches:
        hits += int(resident[used].sum())
        value = worth.after(used)
        candidate = resident.copy()
        candidate[used] = True
        ids = np.flatnonzero(candidate)
        kept = ids[np.lexsort((~resident[ids], -value[ids]))[:capacity]]
        copies += int((~resident[kept]).sum())
        resident[:] = False
        resident[kept] = True
    return _result(batches, hits, copies)


def _result(batches: Sequence[Ints], hits: int, copies: int) -> BatchHits:
    unique = sum(map(len, batches))
    return BatchHits(unique_hit_rate=hits / unique, copies_per_batch=copies / len(batches))
