"""Which items follow which, learnt while the cache runs: what to bring in before it is asked for.

Each item has a few followers: items that were used within a short window of accesses after it. How
often one follows is a guess of its chance to be used within the next window; what became of
earlier guesses like it, the same share and as many sightings, says what such a guess is worth. A
guess that came true by accident, as each pair that was seen once does, is worth nothing where
pairs do not recur.

Sources: pairs of blocks that are used within a window, as a reason to prefetch, from Yang,
Karimi, Sæmundsson, Wildani and Vigfusson, "MITHRIL: Mining Sporadic Associations for Cache
Prefetching", SoCC 2017; counts of what follows within a window, and a least chance to act on,
from Griffioen and Appleton, "Reducing File System Latency using a Predictive Approach", USENIX
Summer 1994. Trials of guesses, carried out or not, are this project's own.

Letters in shapes: V ids, F followers of an id, W accesses of a window, G kinds of guesses.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# A guess is of a kind by its chance, in half octaves, and by its sightings, in half octaves too.
_CHANCES, _SIGHTINGS = 16, 12
# What a window of newcomers takes from the weakest follower of a full list, and how weak that must
# be for one of them to get its place. A pair must be able to recur before chance pushes it out.
_PUSH = 0.25
_WEAK = 0.5
# Trials of a kind that are taken to have failed before there was any.
_DOUBT = 20.0


class Successors(NamedTuple):
    """All that is known of followers; arrays are changed in place.

    Args:
        followers: int64 [V, F], ids; -1 is none.
        sightings: float64 [V, F], of each follower, fading with each use of the item before it.
        uses: float64 [V], of each item, fading alike.
        recent: int64 [W], the last accesses, that of time t at t modulo W; -1 is none.
        due: int64 [V], last time at which the guess of an id comes true; -1 where there is none.
        kind: int64 [V], of that guess.
        came, tried: float64 [G], guesses of each kind that came true, and all; fading alike.
    """

    followers: Ints
    sightings: Floats
    uses: Floats
    recent: Ints
    due: Ints
    kind: Ints
    came: Floats
    tried: Floats


def no_successors(num_ids: int, *, followers: int, window: int) -> Successors:
    """Nothing is known yet.

    Args:
        num_ids: V.
        followers: F; 0 for a cache that brings nothing in.
        window: W, at least 1.
    """
    kinds = _CHANCES * _SIGHTINGS
    return Successors(
        followers=np.full((num_ids, followers), -1, np.int64),
        sightings=np.zeros((num_ids, followers)),
        uses=np.zeros(num_ids),
        recent=np.full(window, -1, np.int64),
        due=np.full(num_ids, -1, np.int64),
        kind=np.zeros(num_ids, np.int64),
        came=np.zeros(kinds),
        tried=np.zeros(kinds),
    )


def note_access(known: Successors, item: int, now: int, last: Ints, memory: float) -> None:
    """Learn from an access.

    Args:
        known: is changed.
        item: that is used.
        now: time of the access, one more than that of the access before.
        last: int64 [V], times of the last uses before this one; -1 is none.
        memory: share of sightings that is left after a use.
    """
    if known.due[item] >= now:
        known.came[known.kind[item]] += 1.0
    known.due[item] = -1
    window, most = len(known.recent), known.followers.shape[1]
    for place in range(window):
        before = known.recent[place]
        # One sighting for each use of the item before: its last one, and not for a repeat of this.
        if before < 0 or before == item or last[before] % window != place:
            continue
        if last[item] > last[before]:
            continue
        weakest, fewest, found = 0, np.inf, False
        for j in range(most):
            if known.followers[before, j] == item:
                known.sightings[before, j] += 1.0
                found = True
                break
            if known.sightings[before, j] < fewest:
                weakest, fewest = j, known.sightings[before, j]
        if not found and most:
            if fewest < _WEAK:
                known.followers[before, weakest] = item
                known.sightings[before, weakest] = 1.0
            else:
                known.sightings[before, weakest] -= _PUSH / window
    known.recent[now % window] = item
    known.uses[item] = known.uses[item] * memory + 1.0
    for j in range(most):
        known.sightings[item, j] *= memory


def chance_to_follow(
    known: Successors, item: int, place: int, now: int, memory: float, least: float
) -> float:
    """Chance that a follower is used within the next window, by what became of guesses like it.

    The guess is put on trial, whatever the caller makes of it.

    Args:
        known: is changed.
        item: that was just noted.
        place: of the follower in its list; there is one.
        now: time of the access.
        memory: share of the trials of a kind that is left after one more.
        least: chance that the caller acts on.

    Returns:
        The chance; 0 where the guess is below half of `least`, and not tried.
    """
    sightings = known.sightings[item, place]
    # One use more than there was: what was seen once in one use is no certainty.
    guess = sightings / (known.uses[item] + 1.0)
    if guess < 0.5 * least or guess <= 0.0:
        return 0.0
    octaves = max(0, int(-2.0 * math.log2(guess)))
    seen = int(2.0 * math.log2(sightings + 1.0))
    kind = min(octaves, _CHANCES - 1) * _SIGHTINGS + min(seen, _SIGHTINGS - 1)
    other = known.followers[item, place]
    if known.due[other] < now:
        known.due[other] = now + len(known.recent)
        known.kind[other] = kind
        known.tried[kind] = known.tried[kind] * memory + 1.0
        known.came[kind] *= memory
    return float(known.came[kind] / (known.tried[kind] + _DOUBT))
