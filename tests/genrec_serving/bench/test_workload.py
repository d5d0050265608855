"""What the load is made of: the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_model.errors import ConfigError
from genrec_serving.bench.workload import LoadPlan, SyntheticUser, arrivals, popularity


def test_arrivals_are_poisson() -> None:
    times = arrivals(np.random.default_rng(0), rate=200, seconds=50)
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert (np.diff(times) > 0).all()
    assert 0 < times[0] <= times[-1] < 50
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    again = arrivals(np.random.default_rng(0), rate=200, seconds=50)
    assert (times == again).all()


def test_popularity() -> None:
    assert popularity(4, 0).tolist() == [0.25] * 4
    shares = popularity(100, 1.0)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx(2 * shares[1])


def test_users_act_in_order_of_time() -> None:
    def user() -> SyntheticUser:
        rng = np.random.default_rng(3)
        return SyntheticUser("u", rng, items=["a", "b", "c"], actions=["view", "buy"], start=100)

    one, other = user(), user()
    first, second = one.act(3), one.act(2)
    assert one.events == first + second == other.act(3) + other.act(2)
    times = [event["timestamp"] for event in one.events]
    assert times == sorted(set(times))
    assert one.now > times[-1]
    ids = [event["event_id"] for event in one.with_ids(one.events)]
    assert len(set(ids)) == 5


def test_processes_share_users_and_rate() -> None:
    plan = LoadPlan(url="x", rate=90, users=10, processes=3)
    shares = [plan.share(i) for i in range(3)]
    assert sorted(n for numbers, _, _ in shares for n in numbers) == list(range(10))
    assert [rate for _, rate, _ in shares] == [30, 30, 30]
    closed = LoadPlan(url="x", concurrency=8, users=10, processes=3)
    assert [closed.share(i)[2] for i in range(3)] == [3, 3, 2]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"rate": 1, "concurrency": 1},
        {"rate": 0},
        {"rate": 1, "processes": 0},
        {"rate": 1, "users": 2, "processes": 3},
        {"concurrency": 2, "processes": 3},
        {"rate": 1, "new_events": -1},
        {"rate": 1, "history_spread": -1},
        {"rate": 1, "seconds": 0},
        {"rate": 1, "own_users": True},
        {"concurrency": 3, "users": 2, "own_users": True},
    ],
)
def test_plans_that_make_no_sense(wrong) -> None:
    with pytest.raises(ConfigError, match="load: "):
        LoadPlan(url="x", **wrong)
