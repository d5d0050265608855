"""Items are drawn as often as the law says."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_serving.bench.item_popularity import ItemPopularity


@pytest.mark.parametrize("exponent", [0.0, 1.05])
def test_draws_follow_the_expected_counts(exponent) -> None:
    items = ItemPopularity(50, exponent)
    expected = items.expected(100_000)
    drawn = np.bincount(items.draw(np.random.default_rng(0), 100_000), minlength=50)
    assert len(drawn) == 50
    assert np.abs(drawn - expected).max() < 6 * np.sqrt(expected.max())
    ranks = np.sort(expected)[::-1]
    assert ranks[0] / ranks[9] == pytest.approx(10**exponent, rel=0.01)


def test_popular_items_are_anywhere() -> None:
    assert ItemPopularity(1000, 1.0).expected(10**6)[:10].max() < 10**5


def test_a_list_has_no_item_twice_and_popular_ones_mostly() -> None:
    items = ItemPopularity(100, 1.0)
    random = np.random.default_rng(0)
    lists = [items.draw_apart(random, 10) for _ in range(500)]
    assert all(len(set(one.tolist())) == 10 for one in lists)
    best = int(items.expected(10**6).argmax())
    assert np.mean([one[0] == best for one in lists]) == pytest.approx(
        items.expected(10**6)[best] / 10**6, abs=0.06
    )
    assert sorted(items.draw_apart(random, 100).tolist()) == list(range(100))
