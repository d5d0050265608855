"""The project's policy, one access at a time: for comparison with caches of the literature.

Serving works by batch (:mod:`genrec_cache.policy`). Counters, features and the learnt model are
the same here; a step of the model is as many accesses as the cache has slots. A missed item takes
the place of the least promising of some residents drawn at random, as sampled eviction does in
Beckmann, Chen and Cidon, "LHD: Improving Cache Hit Rate by Maximizing Hit Density", NSDI 2018,
and only if it promises more itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec_cache.compiled import compiled
from genrec_cache.reuse_model import AGE_KNOTS, COUNT_FLOOR, Floats, ReuseModel, features

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class AccessSettings:
    """One setting for all data sets.

    Args:
        fast_half_life, slow_half_life: of the counts, in accesses per slot.
        step: accesses per slot between two lessons of the model.
        min_step: lower bound of a step, in accesses, so that tiny caches do not learn all day.
        sample: residents that compete for the place of a missed item.
        memory, trust: see :class:`ReuseModel`.
    """

    fast_half_life: float = 2.0
    slow_half_life: float = 20.0
    step: float = 1.0
    min_step: int = 256
    sample: int = 256
    memory: float = 0.97
    trust: float = 1000.0


def access_hits(
    stream: Ints, num_ids: int, capacity: int, settings: AccessSettings | None = None
) -> int:
    """Hits of the policy on a stream, starting cold.

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
        return 0
    chosen = settings or AccessSettings()
    halves = np.array([chosen.fast_half_life, chosen.slow_half_life]) * capacity
    decay = np.asarray(0.5 ** (1.0 / halves))
    step = max(chosen.min_step, round(chosen.step * capacity))
    model = ReuseModel(memory=chosen.memory, trust=chosen.trust)
    last = np.full(num_ids, -1, np.int64)
    counts = np.zeros((num_ids, 2))
    slot_of = np.full(num_ids, -1, np.int64)
    id_of = np.full(capacity, -1, np.int64)
    # Slots in use, state of the random numbers.
    state = np.array([0, 88172645], np.int64)
    known = np.zeros(0, np.int64)
    seen = features(np.zeros(0), np.zeros(0), np.zeros(0))
    hits = 0
    run, score = _compiled()
    for start in range(0, len(stream), step):
        part = stream[start : start + step]
        hits += run(
            *(part, start, last, counts, slot_of, id_of, state, decay, model.weights),
            chosen.sample,
            score,
        )
        model.learn(seen, last[known] >= start)
        now = start + len(part)
        known = np.flatnonzero(last >= 0)
        age = (now - last[known]).astype(np.float64)
        faded = counts[known] * decay[None, :] ** age[:, None]
        seen = features(faded[:, 0], faded[:, 1], age)
    return hits


@cache
def _compiled() -> tuple[Any, Any]:
    """`_run` and `_score`, compiled when they are first needed.

    Not at import: numba's libraries, once loaded, break the start of vLLM (0.32) in the same
    process, and whoever imports this package for something else must not pay for that.
    """
    return compiled(_run), compiled(_score)


def _score(count: Floats, decay: Floats, age: float, weights: Floats) -> float:
    """Log odds of one item, as `features` and `ReuseModel.score` have it for many."""
    place = min(np.log2(age + 1.0) / 2.0, AGE_KNOTS - 1.001)
    knot = int(place)
    part = place - knot
    out = weights[2] + (1.0 - part) * weights[3 + knot] + part * weights[4 + knot]
    out += weights[0] * np.log2(count[0] * decay[0] ** age + COUNT_FLOOR)
    out += weights[1] * np.log2(count[1] * decay[1] ** age + COUNT_FLOOR)
    return float(out)


def _run(
    stream: Ints,
    start: int,
    last: Ints,
    counts: Floats,
    slot_of: Ints,
    id_of: Ints,
    state: Ints,
    decay: Floats,
    weights: Floats,
    sample: int,
    score: Callable[[Floats, Floats, float, Floats], float],
) -> int:
    """Access these ids, the first of them at time `start`; arrays are changed in place."""
    hits = 0
    used = state[0]
    noise = state[1]
    capacity = len(id_of)
    for k in range(len(stream)):
        now = start + k
        item = stream[k]
        for j in range(2):
            if last[item] >= 0:
                counts[item, j] *= decay[j] ** (now - last[item])
            counts[item, j] += 1.0
        last[item] = now
        if slot_of[item] >= 0:
            hits += 1
            continue
        if used < capacity:
            id_of[used] = item
            slot_of[item] = used
            used += 1
            continue
        lowest = np.inf
        victim = 0
        for _ in range(sample):
            # A linear congruential step of 31 bits: no state of the process is touched.
            noise = (noise * 1103515245 + 12345) & 0x7FFFFFFF
            slot = (noise >> 8) % capacity
            other = id_of[slot]
            odds = score(counts[other], decay, now - last[other], weights)
            if odds < lowest:
                lowest = odds
                victim = slot
        if score(counts[item], decay, 0.0, weights) > lowest:
            slot_of[id_of[victim]] = -1
            id_of[victim] = item
            slot_of[item] = victim
    state[0] = used
    state[1] = noise
    return hits
