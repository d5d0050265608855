"""The project's policy, one access at a time: for comparison with caches of the literature.

Serving works by batch (:mod:`genrec_cache.policy`). Counters, features and the learnt model are
the same here; a step of the model is as many accesses as the cache has slots. A missed item takes
the place of the least promising of some residents drawn at random, as sampled eviction does in
Beckmann, Chen and Cidon, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018,
and only if it promises more itself.

After each access the items that are likely to follow come in, too (:mod:`genrec_cache.successors`),
each in the place of a resident that promises fewer hits an access, which is LHD's measure. So rows
are copied for accesses that may not happen; Belady's optimum, which brings in what was asked for
only, is no bound for such a cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genrec_cache.compiled import compiled
from genrec_cache.reuse_model import AGE_KNOTS, COUNT_FLOOR, Floats, ReuseModel, features
from genrec_cache.successors import Successors, chance_to_follow, no_successors, note_access

Ints = NDArray[np.int64]

# Places in the numbers that a run goes on from: slots in use, and the state of the random numbers.
_USED, _NOISE = 0, 1
# Of what it counts.
_HITS, _COPIES, _PREFETCHED, _IN_TIME = 0, 1, 2, 3
# Keeps the log odds of what is certain finite.
_MOST_CHANCE = 0.999


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """One setting for all data sets.

    Args:
        fast_half_life, slow_half_life: of the counts, in accesses per slot.
        step: accesses per slot between two lessons of the model.
        min_step: lower bound of a step, in accesses, so that tiny caches do not learn all day.
        sample: residents that compete for the place of a missed item.
        memory, trust: see :class:`ReuseModel`.
        followers: that are known of each item; 0: nothing is brought in before it is asked for.
        window: accesses within which an item follows another.
        follow_memory: share of what is known of an item's followers that is left after its use.
        trial_memory: share of what became of guesses that is left after one more of their kind.
        least_chance: that a follower must have to be brought in. This bounds the copies.
    """

    fast_half_life: float = 2.0
    slow_half_life: float = 20.0
    step: float = 1.0
    min_step: int = 256
    sample: int = 256
    memory: float = 0.97
    trust: float = 1000.0
    followers: int = 8
    window: int = 32
    follow_memory: float = 0.95
    trial_memory: float = 0.999
    least_chance: float = 0.1


@dataclass(frozen=True, kw_only=True)
class AccessCounts:
    """What a replay found.

    Args:
        hits: accesses to an item that was resident before.
        copies: rows brought in, whether asked for or expected.
        prefetched: of those, the expected ones.
        in_time: of those, the ones that were used within the window.
    """

    hits: int
    copies: int
    prefetched: int
    in_time: int


class _Rules(NamedTuple):
    """Numbers that stay the same; `step` is the model's, in accesses."""

    sample: int
    step: int
    follow_memory: float
    trial_memory: float
    least_chance: float


class _Slots(NamedTuple):
    """Residents; arrays are changed in place.

    `until` is the last time at which an item counts as expected, -1 where it does not, and
    `hope` its log odds meanwhile, both [V]; `counted` is what the run found.
    """

    slot_of: Ints
    id_of: Ints
    until: Ints
    hope: Floats
    state: Ints
    counted: Ints


class _History(NamedTuple):
    """Uses of each item: times of the last ones [V] and fading counts [V, 2]."""

    last: Ints
    counts: Floats
    decay: Floats


Score = Callable[[Floats, Floats, float, Floats], float]
Weakest = Callable[[_Slots, _History, int, Floats, int, Score], tuple[int, float]]
Put = Callable[[_Slots, int, int], None]
Note = Callable[[Successors, int, int, Ints, float], None]
Chance = Callable[[Successors, int, int, int, float, float], float]


def access_hits(
    stream: Ints, num_ids: int, capacity: int, settings: AccessSettings | None = None
) -> int:
    """Hits of the policy on a stream: see :func:`access_counts`."""
    return access_counts(stream, num_ids, capacity, settings).hits


def access_counts(
    stream: Ints, num_ids: int, capacity: int, settings: AccessSettings | None = None
) -> AccessCounts:
    """Hits and copies of the policy on a stream, starting cold.

    Args:
        stream: ids in the order of their accesses, in [0, num_ids).
        num_ids: of the catalogue.
        capacity: slots; 0 is no cache.

    Raises:
        IndexError: an id is out of range. Compiled loops do not look.
    """
    if len(stream) and not 0 <= int(stream.min()) <= int(stream.max()) < num_ids:
        raise IndexError(f"ids {stream.min()} to {stream.max()} in a catalogue of {num_ids}")
    if capacity <= 0 or not len(stream):
        return AccessCounts(hits=0, copies=0, prefetched=0, in_time=0)
    chosen = settings or AccessSettings()
    halves = np.array([chosen.fast_half_life, chosen.slow_half_life]) * capacity
    history = _History(
        last=np.full(num_ids, -1, np.int64),
        counts=np.zeros((num_ids, 2)),
        decay=np.asarray(0.5 ** (1.0 / halves)),
    )
    slots = _Slots(
        slot_of=np.full(num_ids, -1, np.int64),
        id_of=np.full(capacity, -1, np.int64),
        until=np.full(num_ids, -1, np.int64),
        hope=np.zeros(num_ids),
        state=np.array([0, 88172645], np.int64),
        counted=np.zeros(4, np.int64),
    )
    known = no_successors(num_ids, followers=chosen.followers, window=chosen.window)
    rules = _Rules(
        sample=chosen.sample,
        step=max(chosen.min_step, round(chosen.step * capacity)),
        follow_memory=chosen.follow_memory,
        trial_memory=chosen.trial_memory,
        least_chance=chosen.least_chance,
    )
    model = ReuseModel(memory=chosen.memory, trust=chosen.trust)
    used = np.zeros(0, np.int64)
    seen = features(np.zeros(0), np.zeros(0), np.zeros(0))
    run, *parts = _compiled()
    for start in range(0, len(stream), rules.step):
        part = stream[start : start + rules.step]
        run(part, start, slots, history, known, rules, model.weights, *parts)
        model.learn(seen, history.last[used] >= start)
        now = start + len(part)
        used = np.flatnonzero(history.last >= 0)
        age = (now - history.last[used]).astype(np.float64)
        faded = history.counts[used] * history.decay[None, :] ** age[:, None]
        seen = features(faded[:, 0], faded[:, 1], age)
    hits, copies, prefetched, in_time = map(int, slots.counted)
    return AccessCounts(hits=hits, copies=copies, prefetched=prefetched, in_time=in_time)


@cache
def _compiled() -> tuple[Any, ...]:
    """`_run` and what it calls, compiled when they are first needed.

    Not at import: numba's libraries, once loaded, break the start of vLLM (0.32) in the same
    process, and whoever imports this package for something else must not pay for that.
    """
    inner: tuple[Callable[..., Any], ...] = (_score, _weakest, _put, note_access, chance_to_follow)
    return compiled(_run), *map(compiled, inner)


def _score(count: Floats, decay: Floats, age: float, weights: Floats) -> float:
    """Log odds of one item, as `features` and `ReuseModel.score` have it for many."""
    place = min(np.log2(age + 1.0) / 2.0, AGE_KNOTS - 1.001)
    knot = int(place)
    part = place - knot
    out = weights[2] + (1.0 - part) * weights[3 + knot] + part * weights[4 + knot]
    out += weights[0] * np.log2(count[0] * decay[0] ** age + COUNT_FLOOR)
    out += weights[1] * np.log2(count[1] * decay[1] ** age + COUNT_FLOOR)
    return float(out)


def _weakest(
    slots: _Slots, history: _History, now: int, weights: Floats, sample: int, score: Score
) -> tuple[int, float]:
    """Slot and log odds of the least promising of some residents drawn at random."""
    lowest = np.inf
    victim = 0
    noise = slots.state[_NOISE]
    for _ in range(sample):
        # A linear congruential step of 31 bits: no state of the process is touched.
        noise = (noise * 1103515245 + 12345) & 0x7FFFFFFF
        slot = (noise >> 8) % len(slots.id_of)
        other = slots.id_of[slot]
        if slots.until[other] >= now and slots.hope[other] >= lowest:
            continue
        odds = score(history.counts[other], history.decay, now - history.last[other], weights)
        if slots.until[other] >= now:
            odds = max(odds, slots.hope[other])
        if odds < lowest:
            lowest = odds
            victim = slot
    slots.state[_NOISE] = noise
    return victim, lowest


def _put(slots: _Slots, item: int, slot: int) -> None:
    """Copy an item's row into a slot."""
    if slots.id_of[slot] >= 0:
        slots.slot_of[slots.id_of[slot]] = -1
        slots.until[slots.id_of[slot]] = -1
    slots.id_of[slot] = item
    slots.slot_of[item] = slot
    slots.counted[_COPIES] += 1


def _run(
    stream: Ints,
    start: int,
    slots: _Slots,
    history: _History,
    known: Successors,
    rules: _Rules,
    weights: Floats,
    score: Score,
    weakest: Weakest,
    put: Put,
    note: Note,
    chance: Chance,
) -> None:
    """Access these ids, the first of them at time `start`; arrays are changed in place."""
    counts, decay, last = history.counts, history.decay, history.last
    window = len(known.recent)
    for k in range(len(stream)):
        now = start + k
        item = stream[k]
        resident = slots.slot_of[item] >= 0
        if resident:
            slots.counted[_HITS] += 1
            if slots.until[item] >= now:
                slots.counted[_IN_TIME] += 1
            slots.until[item] = -1
        note(known, item, now, last, rules.follow_memory)
        for j in range(2):
            if last[item] >= 0:
                counts[item, j] *= decay[j] ** (now - last[item])
            counts[item, j] += 1.0
        last[item] = now
        if slots.state[_USED] < len(slots.id_of):
            if not resident:
                put(slots, item, slots.state[_USED])
                slots.state[_USED] += 1
        elif not resident:
            victim, lowest = weakest(slots, history, now, weights, rules.sample, score)
            if score(counts[item], decay, 0.0, weights) > lowest:
                put(slots, item, victim)
        for place in range(known.followers.shape[1]):
            other = known.followers[item, place]
            # What was just used is not due again.
            if other < 0 or slots.slot_of[other] >= 0 or last[other] >= max(0, now - window + 1):
                continue
            likely = chance(known, item, place, now, rules.trial_memory, rules.least_chance)
            if likely < rules.least_chance or slots.state[_USED] < len(slots.id_of):
                continue
            # The model's odds are of a use within a step: as many hits an access in another time.
            likely = min(likely * rules.step / window, _MOST_CHANCE)
            hope = np.log(likely / (1.0 - likely))
            victim, lowest = weakest(slots, history, now, weights, rules.sample, score)
            if hope > lowest:
                put(slots, other, victim)
                slots.until[other] = now + window
                slots.hope[other] = hope
                slots.counted[_PREFETCHED] += 1
