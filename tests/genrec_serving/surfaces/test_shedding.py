"""Which users are refused while more come than fit. No test waits for a clock."""

from __future__ import annotations

import pytest

from genrec_serving.requests import Events, RankQuery, RecommendQuery
from genrec_serving.surfaces.shedding import PERIOD_S, Shedding

USERS = [str(user).encode() for user in range(1000)]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def round_of(shedding: Shedding, clock: Clock, *, room: int) -> list[bytes]:
    """All users come within half a second, and so many find room; those whose turn it is."""
    clock.now += 0.5
    turn = [user for user in USERS if not shedding.turn_in_s(user)]
    for number, _ in enumerate(turn):
        if number < room:
            shedding.passed(0.0)
        else:
            shedding.turned_away()
    return turn


def test_everybody_has_a_turn_while_there_is_room() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    for _ in range(20):
        assert round_of(shedding, clock, room=1000) == USERS
    assert shedding.share == 1


def test_the_share_follows_the_room() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    counts = [len(round_of(shedding, clock, room=200)) for _ in range(60)]
    assert counts[0] == 1000
    assert all(150 < count < 260 for count in counts[9:])
    counts = [len(round_of(shedding, clock, room=1000)) for _ in range(60)]
    assert counts[-1] == 1000


def test_a_moments_burst_refuses_nobody_whose_turn_it_was() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    for room in (1000, 200, 1000, 900, 1000):
        round_of(shedding, clock, room=room)
    assert shedding.share == 1


def test_one_who_has_a_turn_keeps_it_and_all_have_one() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    for _ in range(20):
        before = set(round_of(shedding, clock, room=200))
    after = set(round_of(shedding, clock, room=200))
    assert len(before & after) > 0.85 * min(len(before), len(after))
    seen = set(after)
    for _ in range(int(2 * PERIOD_S)):
        seen |= set(round_of(shedding, clock, room=200))
    assert seen == set(USERS)


def test_the_turn_comes_when_it_is_said_to() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    for _ in range(20):
        round_of(shedding, clock, room=200)
    shedding._window_ends = 1e9  # so that the share stays
    user, turn_in_s = next((u, t) for u in USERS if (t := shedding.turn_in_s(u)) > 1)
    clock.now += turn_in_s - 0.5
    assert shedding.turn_in_s(user) == pytest.approx(0.5)
    clock.now += 0.6
    assert shedding.turn_in_s(user) == 0


def test_a_quiet_time_ends_it() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    for _ in range(20):
        round_of(shedding, clock, room=10)
    assert shedding.share < 0.05
    clock.now += 60
    assert len(round_of(shedding, clock, room=1000)) == 1000


def test_somebody_is_let_in_as_often_as_others() -> None:
    clock = Clock()
    shedding = Shedding(clock)
    for _ in range(20):
        round_of(shedding, clock, room=300)
    let_in = sum(not shedding.turn_in_s(None) for _ in range(1000)) / 1000
    assert let_in == pytest.approx(shedding.share, abs=0.1)


def test_what_a_user_is_known_by() -> None:
    one = Events(item_ids=list(range(20)), actions=["view"] * 20, timestamps=list(range(20)))
    grown = Events(item_ids=list(range(30)), actions=["buy"] * 30, timestamps=list(range(30)))
    other = Events(item_ids=list(range(20)), actions=["view"] * 20, timestamps=list(range(5, 25)))
    assert RecommendQuery(history=one).known_by() == RecommendQuery(history=grown).known_by()
    assert RecommendQuery(history=one).known_by() != RecommendQuery(history=other).known_by()
    assert (
        RecommendQuery(user_id=42).known_by() == RankQuery(user_id="42", candidates=[]).known_by()
    )
