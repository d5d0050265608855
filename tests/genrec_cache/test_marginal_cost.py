"""The slope of times over sizes."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_cache.marginal_cost import MarginalCost


def test_the_fixed_part_is_left_out() -> None:
    cost = MarginalCost()
    rng = np.random.default_rng(0)
    for size in rng.integers(1, 500, 300).tolist():
        cost.add(size, 5.0 + 0.02 * size + float(rng.normal(0, 0.1)))
    assert cost.of_one() == pytest.approx(0.02, rel=0.05)


def test_it_follows_a_change() -> None:
    cost = MarginalCost(memory=0.9)
    for per_row in (1.0, 3.0):
        for size in list(range(1, 20)) * 10:
            cost.add(size, per_row * size)
    assert cost.of_one() == pytest.approx(3.0, rel=0.01)


def test_where_a_slope_cannot_be_told() -> None:
    cost = MarginalCost()
    assert cost.of_one() == 0.0
    cost.add(0, 7.0)
    assert cost.of_one() == 0.0
    cost = MarginalCost()
    for _ in range(5):
        cost.add(10, 40.0)
    assert cost.of_one() == pytest.approx(4.0)
    falling = MarginalCost()
    falling.add(1, 10.0)
    falling.add(10, 1.0)
    assert falling.of_one() == 0.0
