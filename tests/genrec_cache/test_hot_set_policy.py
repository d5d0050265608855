"""What the project's policy keeps, on streams made for it."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_cache.access_policy import AccessSettings, _score, access_hits
from genrec_cache.policy import HotSetPolicy, PolicySettings
from genrec_cache.replay import batch_hits
from genrec_cache.reuse_model import NUM_WEIGHTS, ReuseModel, features


def ids(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def test_free_slots_are_filled_by_the_first_batch() -> None:
    policy = HotSetPolicy(10, 4)
    plan = policy.after_batch(ids(1, 5))
    assert sorted(plan.admit.tolist()) == [1, 5]
    assert not len(plan.evict)
    assert np.flatnonzero(policy.resident).tolist() == [1, 5]


def test_a_scan_does_not_drive_out_what_is_used_in_every_batch() -> None:
    policy = HotSetPolicy(1000, 4)
    for batch in range(100):
        policy.after_batch(ids(0, 1, 2, 3, *range(10 + 5 * batch, 15 + 5 * batch)))
    assert np.flatnonzero(policy.resident).tolist() == [0, 1, 2, 3]


def test_a_change_of_taste_is_followed() -> None:
    policy = HotSetPolicy(20, 4)
    for _ in range(40):
        policy.after_batch(ids(0, 1, 2, 3))
    for _ in range(40):
        policy.after_batch(ids(10, 11, 12, 13))
    assert np.flatnonzero(policy.resident).tolist() == [10, 11, 12, 13]


def test_announced_items_come_first() -> None:
    policy = HotSetPolicy(100, 3)
    for _ in range(30):
        policy.after_batch(ids(0, 1, 2))
    policy.after_batch(ids(0, 1, 2), ahead=ids(50, 51))
    assert policy.resident[[50, 51]].all()
    assert policy.resident.sum() == 3


def test_locked_residents_stay() -> None:
    policy = HotSetPolicy(100, 3)
    policy.after_batch(ids(0, 1, 2))
    locked = np.zeros(100, np.bool_)
    locked[[0, 1]] = True
    plan = policy.after_batch(ids(5), ahead=ids(50, 51, 52), locked=locked)
    assert plan.evict.tolist() == [2]
    assert policy.resident[[0, 1]].all()


def test_copies_stay_in_their_budget() -> None:
    policy = HotSetPolicy(100, 10, PolicySettings(max_copies=2))
    policy.after_batch(np.arange(10))
    plan = policy.after_batch(np.arange(20, 30), ahead=np.arange(20, 30))
    assert len(plan.admit) == len(plan.evict) == 2


def test_the_overlap_is_what_of_the_hot_set_is_resident() -> None:
    policy = HotSetPolicy(100, 4)
    assert policy.overlap() == 1.0
    for _ in range(10):
        policy.after_batch(ids(0, 1, 2, 3))
    assert policy.overlap() == 1.0
    policy.announce(ids(50, 51, 52))
    assert policy.overlap() == 0.25
    assert HotSetPolicy(100, 0).overlap() == 1.0


def test_an_announcement_teaches_nothing() -> None:
    told, untold = HotSetPolicy(100, 4), HotSetPolicy(100, 4)
    for policy in (told, untold):
        policy.after_batch(ids(0, 1, 2, 3))
    assert told.announce(ids(9)).admit.tolist() == [9]
    before, after = untold.state(), told.state()
    for name in before.keys() - {"residents"}:
        assert np.array_equal(before[name], after[name]), name


def test_residents_that_take_turns_give_way_too() -> None:
    policy = HotSetPolicy(100, 8, PolicySettings(contest=3))
    for _ in range(20):
        policy.after_batch(np.arange(8))
    for _ in range(60):
        plan = policy.after_batch(np.arange(50, 58))
        assert len(plan.evict) <= 3
    assert np.flatnonzero(policy.resident).tolist() == list(range(50, 58))


def test_turns_follow_the_residents_through_locks_and_new_ids() -> None:
    rng = np.random.default_rng(0)
    policy = HotSetPolicy(60, 12, PolicySettings(contest=5))
    for step in range(80):
        if step == 40:
            policy.grow(90)
        locked = rng.random(policy.num_ids) < 0.3
        before = policy.resident & locked
        policy.after_batch(
            np.unique(rng.integers(0, policy.num_ids, 15)),
            ahead=np.unique(rng.integers(0, policy.num_ids, 5)),
            locked=locked,
        )
        assert policy.resident[before].all()
        assert np.array_equal(np.sort(policy._members), np.flatnonzero(policy.resident))


def test_only_a_share_of_a_batch_takes_slots_unless_announced() -> None:
    policy = HotSetPolicy(500, 40, PolicySettings(copy_share=0.1, margin=0.0))
    policy.after_batch(np.arange(40))
    for _ in range(30):
        plan = policy.after_batch(np.arange(100, 150))
        assert len(plan.admit) == len(plan.evict) <= 5
    assert policy.resident[100:150].sum() == 40
    plan = policy.after_batch(np.arange(100, 150), ahead=np.arange(300, 330))
    assert set(range(300, 330)) <= set(plan.admit.tolist())


def test_warm_start_takes_the_most_popular() -> None:
    policy = HotSetPolicy(5, 2)
    plan = policy.warm(np.array([0, 3, 9, 0, 4]))
    assert plan.admit.tolist() == [2, 4]
    policy.after_batch(ids(0))
    with pytest.raises(ValueError, match="before the first batch"):
        policy.warm(np.array([0, 3, 9, 0, 4]))


def test_nothing_to_keep_and_room_for_all() -> None:
    assert not len(HotSetPolicy(5, 0).after_batch(ids(1, 2)).admit)
    large = HotSetPolicy(5, 50)
    large.after_batch(np.arange(5))
    assert large.resident.all()


def test_new_ids_are_taken_in() -> None:
    policy = HotSetPolicy(3, 2)
    policy.after_batch(ids(0))
    policy.grow(6)
    policy.after_batch(ids(5))
    assert np.flatnonzero(policy.resident).tolist() == [0, 5]
    with pytest.raises(ValueError, match="cannot shrink"):
        policy.grow(5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fast_half_life": 0.0},
        {"memory": 1.5},
        {"trust": 0.0},
        {"margin": -1.0},
        {"max_copies": -1},
        {"contest": 0},
        {"copy_share": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        PolicySettings(**wrong)  # type: ignore[arg-type]


def test_look_ahead_hits_everything_once_a_batch_fits() -> None:
    rng = np.random.default_rng(1)
    batches = [np.unique(rng.integers(0, 1000, 90)) for _ in range(50)]
    found = batch_hits(batches, 1000, 90, policy="genrec-lookahead")
    first = len(batches[0]) / sum(map(len, batches))
    assert found.unique_hit_rate == pytest.approx(1 - first)


def test_the_model_learns_that_only_recent_items_return() -> None:
    rng = np.random.default_rng(0)
    model = ReuseModel(memory=0.99, trust=10.0)
    for _ in range(50):
        age = rng.integers(0, 500, 400).astype(float)
        model.learn(features(np.ones(400), rng.random(400) * 50, age), age < 3)
    recent, old = model.score(
        features(np.array([1.0, 1.0]), np.array([1.0, 50.0]), np.array([0.0, 400.0]))
    )
    assert recent > 1 > -3 > old


def test_one_item_scores_as_many_do() -> None:
    weights = np.linspace(-1, 1, NUM_WEIGHTS)
    decay = np.array([0.9, 0.99])
    model = ReuseModel(memory=1.0, trust=1.0)
    model.weights = weights
    for age in (0.0, 1.0, 7.0, 1000.0, 1e7):
        faded = np.array([3.0, 9.0]) * decay**age
        many = model.score(features(faded[:1], faded[1:], np.array([age])))[0]
        assert _score(np.array([3.0, 9.0]), decay, age, weights) == pytest.approx(many)


def test_by_access_the_frequent_stay_and_the_same_stream_gives_the_same_hits() -> None:
    rng = np.random.default_rng(0)
    stream = np.minimum(rng.zipf(1.3, 20_000) - 1, 999).astype(np.int64)
    hits = access_hits(stream, 1000, 50)
    assert hits == access_hits(stream, 1000, 50)
    share_of_top = (stream < 50).mean()
    assert hits / len(stream) > share_of_top - 0.02


def test_by_access_the_ends() -> None:
    assert access_hits(ids(1, 1, 1), 2, 0) == 0
    assert access_hits(ids(1, 1, 1), 2, 5, AccessSettings(min_step=1)) == 2
    with pytest.raises(IndexError, match="ids 1 to 7"):
        access_hits(ids(1, 7), 7, 2)
