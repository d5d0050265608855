"""How likely an item is to be used again soon, learnt while the cache runs.

Three things are known of every item, resident or not: a fast and a slow decayed use count and the
time since its last use. A logistic regression on them says how likely the next use falls into the
next step. It is fitted on what happened after each step, so the weight of "often" against
"lately" follows the traffic and needs no setting per data set.

Sources: decayed counts and ages as features of a learnt cache, Song et al., "Learning Relaxed
Belady for Content Distribution Network Caching", NSDI 2020; the update is the online Newton step
of Hazan, Agarwal and Kale, "Logarithmic regret algorithms for online convex optimization", 2007.

Letters in shapes: N items, P weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The age enters as a line through these many points, two octaves apart: 0, 3, 15, 63 ... steps.
AGE_KNOTS = 10
NUM_WEIGHTS = 3 + AGE_KNOTS
# Keeps the logarithm of a count that has decayed away finite.
COUNT_FLOOR = 0.02

# Chosen by hand after fits on MovieLens-1M, Online Retail II and KuaiRand; the fit moves them.
_START = np.array([0.4, 0.35, -0.6, *(-0.25 * knot for knot in range(AGE_KNOTS))])


def features(fast: Floats, slow: Floats, age: Floats) -> Floats:
    """What the model sees of each item.

    Args:
        fast, slow: decayed use counts as of now, [N].
        age: steps since the last use, [N], at least 0.

    Returns:
        [N, P]: logarithms of the counts, 1, and the weights of the two knots around the age.
    """
    out = np.zeros((len(age), NUM_WEIGHTS))
    out[:, 0] = np.log2(fast + COUNT_FLOOR)
    out[:, 1] = np.log2(slow + COUNT_FLOOR)
    out[:, 2] = 1.0
    place = np.minimum(np.log2(age + 1.0) / 2.0, AGE_KNOTS - 1.001)
    knot = place.astype(np.int64)
    rows = np.arange(len(age))
    out[rows, 3 + knot] = 1.0 - (place - knot)
    out[rows, 4 + knot] = place - knot
    return out


class ReuseModel:
    """Logistic regression that forgets slowly.

    Args:
        memory: share of the evidence that is kept from one step to the next.
        trust: evidence, in examples, that the starting weights stand for.
    """

    def __init__(self, *, memory: float, trust: float) -> None:
        self.weights: Floats = _START.copy()
        self._memory = memory
        self._trust = trust
        self._curvature: Floats = np.zeros((NUM_WEIGHTS, NUM_WEIGHTS))

    @property
    def evidence(self) -> tuple[Floats, Floats]:
        """Weights [P] and curvature [P, P]: all that the model knows."""
        return self.weights.copy(), self._curvature.copy()

    def take_evidence(self, weights: Floats, curvature: Floats) -> None:
        """Go on from the evidence of another run.

        Raises:
            ValueError: it is not of this model's size.
        """
        if weights.shape != self.weights.shape or curvature.shape != self._curvature.shape:
            raise ValueError(f"a model of {NUM_WEIGHTS} weights, not {weights.shape}")
        self.weights, self._curvature = weights.copy(), curvature.copy()

    def score(self, seen: Floats) -> Floats:
        """Log odds of a use in the next step, [N], from features [N, P]."""
        out: Floats = seen @ self.weights
        return out

    def learn(self, seen: Floats, used: NDArray[np.bool_]) -> None:
        """Take in what followed.

        Args:
            seen: features [N, P] before a step.
            used: whether each item was used in the step, [N].
        """
        if not len(seen):
            return
        chance = 1.0 / (1.0 + np.exp(-np.clip(seen @ self.weights, -30.0, 30.0)))
        self._curvature *= self._memory
        self._curvature += (seen * (chance * (1.0 - chance))[:, None]).T @ seen
        gradient = seen.T @ (chance - used)
        ridge = self._trust * np.eye(NUM_WEIGHTS)
        self.weights = self.weights - np.linalg.solve(self._curvature + ridge, gradient)
