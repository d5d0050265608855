"""Users who come back keep their pages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec_cache.page_replay import PAGE_POLICIES, HistoryRule, Visits, page_hits, visits_of
from genrec_cache.return_order import ReturnOrder


def visits(*each: tuple[int, int, int]) -> Visits:
    """Of (user, chain, pages)."""
    users, chains, pages = np.array(each, np.int64).T
    return Visits(users=users, chains=chains, pages=pages, most=0)


def test_who_never_came_back_leaves_before_who_always_did() -> None:
    order = ReturnOrder(100)
    for moment in range(400):
        for faithful in range(4):
            order.visit(("faithful", faithful), faithful, 2)
        order.visit(("once", moment), 100 + moment, 2)
        if moment >= 10:  # a little later than most
            victim = order.victim()
            assert victim is not None
            if moment > 60:
                assert victim >= 100  # type: ignore[operator]
            order.drop(victim)


def test_pages_of_a_window_that_moved_leave_first() -> None:
    order = ReturnOrder(100)
    for _ in range(5):
        order.visit("a", "a0", 3)
        order.visit("b", "b0", 3)
    order.visit("a", "a1", 3)
    assert order.victim() == "a0"
    order.drop("a0")
    assert order.victim() in ("a1", "b0")
    assert len(order) == 2


def test_a_user_is_known_by_a_later_name() -> None:
    order = ReturnOrder(100)
    order.visit("first event", "c0", 3, later=["sixty-fifth event"])
    order.visit("sixty-fifth event", "c1", 3)
    assert order.victim() == "c0"


def test_nobody_is_there() -> None:
    order = ReturnOrder(10)
    assert order.victim() is None
    order.visit("a", "a0", 0)  # no whole page
    assert order.victim() is None


def test_more_users_than_are_remembered() -> None:
    order = ReturnOrder(2)
    for user in range(5000):
        order.visit(user, -user - 1, 1)
        while len(order) > 2:
            victim = order.victim()
            assert victim is not None
            order.drop(victim)
    assert len(order._user_of) <= 1024


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(0, 5)), min_size=1),
    st.integers(1, 12),
)
def test_no_policy_beats_the_optimum(each: list[tuple[int, int, int]], pool: int) -> None:
    # A user's windows move on, never back, and histories do not shrink.
    furthest: dict[int, int] = {}
    longest: dict[int, int] = {}
    moved = []
    for user, chunks, pages in each:
        furthest[user] = max(furthest.get(user, 0), chunks)
        chain = user * 10 + furthest[user]
        longest[chain] = max(longest.get(chain, 0), pages)
        moved.append((user, chain, longest[chain]))
    found = visits(*moved)
    if not found.pages.sum():
        return
    hits = {policy: page_hits(found, pool, policy=policy) for policy in PAGE_POLICIES}
    assert 0.0 <= min(hits.values()) <= max(hits.values()) <= hits["optimum"] + 1e-9
    assert hits["optimum"] <= page_hits(found, 10_000, policy="lru") + 1e-9


def test_hits_of_a_small_case_by_hand() -> None:
    # A pool of three pages: user 1 pushes out the end of user 0.
    found = visits((0, 0, 2), (1, 1, 2), (0, 0, 2), (1, 1, 2))
    assert page_hits(found, 3, policy="lru") == pytest.approx(2 / 8)
    assert page_hits(found, 4, policy="lru") == pytest.approx(4 / 8)
    assert page_hits(found, 4, policy="return") == pytest.approx(4 / 8)
    for wrong in ({"pages": 0, "policy": "lru"}, {"pages": 1, "policy": "mru"}):
        with pytest.raises(ValueError, match=r"nothing to replay|unknown"):
            page_hits(found, **wrong)  # type: ignore[arg-type]


def test_a_visit_asks_for_the_whole_pages_of_the_window() -> None:
    rule = HistoryRule(gap_s=10, events=7, chunk=4, page_rows=4)
    times = np.array([0, 1, 50, 100, 150, 200, 250, 300, 350, 400, 450])
    found = visits_of(np.zeros(len(times), np.int64), times, rule)
    # No visit before the first event, none within a gap; one row more than events.
    assert found.pages.tolist() == [0, 1, 1, 1, 1, 2, 1, 1, 1]
    assert np.unique(found.chains, return_counts=True)[1].tolist() == [6, 3]
    assert found.most == 2
