"""Histories by user id: data set first, appended events after, forgotten when told."""

from __future__ import annotations

import pytest

from genrec_model.errors import RequestError
from genrec_model.features.reserved import UNKNOWN
from genrec_serving.histories import ParquetHistories
from genrec_serving.users import histories
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.memory_store import MemoryStore

from .conftest import LIMIT, event


@pytest.fixture
def users(served_artifact, histories_file) -> UserHistories:
    return UserHistories(
        served_artifact.vocabulary,
        store=MemoryStore(events_per_user=LIMIT, max_users=10),
        base=ParquetHistories(histories_file, served_artifact.vocabulary),
    )


async def test_events_of_the_data_set_come_first(users, truth) -> None:
    base = await users.get(1)
    late, early = truth.now, int(base.timestamps[3]) - 1
    appended, unknown = await users.append(
        1, [event(1, late, item_id=1049), event(2, early, item_id=77)], now=truth.now
    )
    assert (appended.accepted, unknown) == (2, 1)
    history = await users.get("1")
    assert len(history) == len(base) + 2
    assert history.timestamps.tolist() == sorted([*base.timestamps.tolist(), late, early])
    assert history.items[-1] == 49 + 3
    assert UNKNOWN in history.items[:4]


async def test_a_history_is_indexed_once(users, truth, monkeypatch) -> None:
    await users.append("new", [event(1)], now=truth.now)
    first = await users.get("new")
    assert await users.get("new") is first
    await users.append("new", [event(1)], now=truth.now)
    assert await users.get("new") is first
    await users.append("new", [event(2)], now=truth.now)
    assert len(await users.get("new")) == 2


async def test_indexed_histories_are_bounded(users, truth, monkeypatch) -> None:
    monkeypatch.setattr(users._indexed, "most", 3)
    for user in "abc":
        await users.append(user, [event(1), event(2)], now=truth.now)
        assert len(await users.get(user)) == 2
    assert list(users._indexed) == ["c"]
    assert users._indexed.size == 2


async def test_a_forgotten_user_is_unknown_and_may_come_back(users, truth) -> None:
    await users.append("2", [event(1)], now=truth.now)
    assert (await users.view(2)).dataset_events == 2
    assert await users.forget(2) is True
    assert await users.get(2) is None
    assert await users.view(2) is None
    assert await users.forget("2") is False
    await users.append(2, [event(5)], now=truth.now)
    assert len(await users.get(2)) == 1
    assert (await users.view(2)).dataset_events == 0
    assert await users.forget("nobody") is False


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 129}, "event_id"),
        ({"item_id": "1000"}, "item_id"),
        ({"item_id": 2**63}, "item_id"),
        ({"action": "sniff"}, "action"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 1_700_000_000 + 86_401}, "timestamp"),
    ],
)
async def test_one_wrong_event_refuses_all(users, truth, changes, field) -> None:
    fields = {"event_id": "b", "item_id": 1000, "action": "view", "timestamp": 5, **changes}
    wrong = histories.UserEvent(**fields)
    with pytest.raises(RequestError) as caught:
        await users.append("new", [event(1), wrong], now=truth.now)
    assert caught.value.field == f"events[1].{field}"
    assert await users.get("new") is None


async def test_bounds(users, truth) -> None:
    for wrong in ([], [event(i) for i in range(1001)]):
        with pytest.raises(RequestError, match="1 to 1000"):
            await users.append("new", wrong, now=truth.now)
    for user in ("", "x" * 129, 10**130):
        with pytest.raises(RequestError, match="128 characters"):
            await users.append(user, [event(1)], now=truth.now)
