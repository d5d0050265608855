"""The real vLLM engine against plain PyTorch."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from genrec_model.features.rows import UserRows
from genrec_serving.encoding import user_rows
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine

pytestmark = pytest.mark.slow

NONE = np.empty(0, np.int64)
# The model sees 47 events (48 rows, three pages of 16) and cuts in chunks of 16.
LENGTHS = [0, 1, 14, 15, 16, 17, 30, 31, 32, 33, 46, 47, 48, 49, 62, 63, 64, 65, 200, 1000]


async def rank(engine: ScoringEngine, rows: UserRows, candidates: np.ndarray, now: int) -> Scored:
    return await engine.rank(RankCall(rows=rows, now=now, candidates=candidates))


@pytest.mark.parametrize("events", LENGTHS)
async def test_ranking_equals_pytorch_fresh_and_cached(vllm_engine, truth, events) -> None:
    rows = truth.rows(events, seed=1)
    candidates = np.arange(3, 53)[::3]
    wanted = truth.rank(rows, candidates)
    first = await rank(vllm_engine, rows, candidates, truth.now)
    again = await rank(vllm_engine, rows, candidates, truth.now)
    truth.assert_same(first, wanted)
    truth.assert_same(again, wanted)
    assert first.cached_rows == 0
    # Whole pages only, and never the last row, which is always computed.
    assert again.cached_rows == (len(rows.items) - 1) // 16 * 16


@pytest.mark.parametrize("events", [0, 5, 47, 300])
@pytest.mark.parametrize("k", [1, 10, 50, 1000])
async def test_recommendation_equals_pytorch(vllm_engine, truth, events, k) -> None:
    rows = truth.rows(events, seed=2)
    call = RecommendCall(rows=rows, now=truth.now, k=k, exclude=NONE)
    found = await vllm_engine.recommend(call)
    assert len(found.items) == min(k, 50)
    assert found.items.min() >= 3
    truth.assert_same(found, truth.recommend(rows, k))


async def test_filters(vllm_engine, truth) -> None:
    rows = truth.rows(20, seed=3)
    exclude, allow = np.arange(3, 40), np.arange(30, 45)
    call = RecommendCall(rows=rows, now=truth.now, k=10, exclude=exclude, allow=allow)
    found = await vllm_engine.recommend(call)
    assert set(found.items.tolist()) == {40, 41, 42, 43, 44}
    truth.assert_same(found, truth.recommend(rows, 10, exclude, allow))


async def test_filters_that_leave_nothing(vllm_engine, truth) -> None:
    call = RecommendCall(
        rows=truth.rows(20), now=truth.now, k=10, exclude=np.arange(3, 53), allow=None
    )
    found = await vllm_engine.recommend(call)
    assert found.items.shape == (0,)
    assert found.task_logits.shape == (0, 2)


@pytest.mark.parametrize("column", ["items", "actions", "timestamps"])
async def test_an_edited_history_uses_no_stale_page(vllm_engine, truth, column) -> None:
    rows = truth.rows(45, seed=4)
    candidates = np.array([5, 9, 20])
    await rank(vllm_engine, rows, candidates, truth.now)
    edited = getattr(rows, column).copy()
    old = edited[20]
    edited[20] = {"items": 3 + (old - 2) % 50, "actions": 5 - old, "timestamps": old + 1}[column]
    assert edited[20] != old
    changed = replace(rows, **{column: edited})
    found = await rank(vllm_engine, changed, candidates, truth.now)
    assert found.cached_rows == 16
    truth.assert_same(found, truth.rank(changed, candidates))


async def test_a_timestamp_beyond_32_bits(vllm_engine, truth) -> None:
    rows = truth.rows(20, seed=5)
    later = replace(rows, timestamps=rows.timestamps + 2**33)
    candidates = np.array([5, 9, 20])
    for users_rows in (rows, later):
        call = RankCall(rows=users_rows, now=truth.now, candidates=candidates)
        truth.assert_same(await vllm_engine.rank(call), truth.rank(users_rows, candidates))


async def test_a_history_that_grows_keeps_its_pages(vllm_engine, truth) -> None:
    whole = truth.history(40, seed=6)
    candidates = np.array([3, 52])
    config = truth.artifact.config
    await rank(
        vllm_engine, user_rows(whole.since(0, 35), config, now=truth.now), candidates, truth.now
    )
    rows = user_rows(whole, config, now=truth.now)
    found = await rank(vllm_engine, rows, candidates, truth.now)
    assert found.cached_rows == 32
    truth.assert_same(found, truth.rank(rows, candidates))


@pytest.mark.parametrize("count", [1, 2, 50, 1000])
async def test_candidates(vllm_engine, truth, count) -> None:
    rows = truth.rows(33, seed=7)
    candidates = np.random.default_rng(count).integers(3, 53, count)
    found = await rank(vllm_engine, rows, candidates, truth.now)
    truth.assert_same(found, truth.rank(rows, candidates))


@pytest.mark.parametrize("events", [0, 15, 49, 50, 51, 60, 61, 300])
async def test_a_model_without_bias_and_with_odd_chunks(odd_engine, events) -> None:
    engine, truth = odd_engine
    rows, candidates = truth.rows(events, seed=11), np.arange(3, 53, 7)
    for _ in range(2):
        found = await rank(engine, rows, candidates, truth.now)
        truth.assert_same(found, truth.rank(rows, candidates))
    assert found.cached_rows == (len(rows.items) - 1) // 16 * 16


async def test_many_users_at_once_equal_one_by_one(vllm_engine, truth) -> None:
    rng = np.random.default_rng(8)
    users = [truth.rows(int(n), seed=8) for n in rng.integers(0, 120, 60)]
    # Two in the same step that share pages: the second reads what the first is writing.
    users += [users[0]] * 3
    lists = [rng.permutation(np.arange(3, 53))[: 1 + i % 40] for i in range(len(users))]

    async def one(i: int) -> Scored:
        if i % 2:
            return await rank(vllm_engine, users[i], lists[i], truth.now)
        call = RecommendCall(rows=users[i], now=truth.now, k=7, exclude=lists[i])
        return await vllm_engine.recommend(call)

    found = await asyncio.gather(*(one(i) for i in range(len(users))))
    for i, scored in enumerate(found):
        if i % 2:
            truth.assert_same(scored, truth.rank(users[i], lists[i]))
        else:
            truth.assert_same(scored, truth.recommend(users[i], 7, exclude=lists[i]))


async def test_padded_passes_of_many_users(odd_engine) -> None:
    engine, truth = odd_engine
    rng = np.random.default_rng(12)
    users = [truth.rows(int(n), seed=12) for n in rng.integers(0, 60, 40)]
    candidates = [rng.permutation(np.arange(3, 53))[: 1 + i] for i in range(len(users))]
    ranks = [rank(engine, u, c, truth.now) for u, c in zip(users, candidates, strict=True)]
    # In the same passes: what is found is computed beside what was given.
    finds = [
        engine.recommend(RecommendCall(rows=u, now=truth.now, k=5, exclude=c))
        for u, c in zip(users, candidates, strict=True)
    ]
    ranked, found = await asyncio.gather(asyncio.gather(*ranks), asyncio.gather(*finds))
    for i, (rows, items) in enumerate(zip(users, candidates, strict=True)):
        truth.assert_same(ranked[i], truth.rank(rows, items))
        truth.assert_same(found[i], truth.recommend(rows, 5, exclude=items))


async def test_large_candidate_passes_are_split(vllm_engine, truth) -> None:
    rng = np.random.default_rng(9)
    users = [truth.rows(int(n), seed=9) for n in rng.integers(0, 47, 12)]
    candidates = rng.integers(3, 53, 1000)
    found = await asyncio.gather(
        *(rank(vllm_engine, rows, candidates, truth.now) for rows in users)
    )
    for rows, scored in zip(users, found, strict=True):
        truth.assert_same(scored, truth.rank(rows, candidates))


async def test_a_small_pool_evicts_and_stays_right(vllm_engine, truth) -> None:
    # Several times as many pages as the pool has (see the fixture).
    users = [truth.rows(47, seed=s) for s in range(300)]
    candidates = np.array([7, 8])
    for _ in range(2):
        found = await asyncio.gather(
            *(rank(vllm_engine, rows, candidates, truth.now) for rows in users)
        )
    for rows, scored in zip(users[::29], found[::29], strict=True):
        truth.assert_same(scored, truth.rank(rows, candidates))


async def test_a_cancelled_request_disturbs_nobody(vllm_engine, truth) -> None:
    rows, candidates = truth.rows(40, seed=10), np.array([3, 4])
    task = asyncio.create_task(rank(vllm_engine, rows, candidates, truth.now))
    await asyncio.sleep(0)
    task.cancel()
    found = await rank(vllm_engine, rows, candidates, truth.now)
    truth.assert_same(found, truth.rank(rows, candidates))
    users = [truth.rows(47, seed=700 + u) for u in range(200)]
    tasks = [asyncio.create_task(rank(vllm_engine, u, candidates, truth.now)) for u in users]
    while vllm_engine.current_statistics()["running"] < 2:
        await asyncio.sleep(0)
    for task in tasks[1:]:
        task.cancel()
    truth.assert_same(await tasks[0], truth.rank(users[0], candidates))
    # Dropped, not computed: one who comes now is alone.
    truth.assert_same(
        await rank(vllm_engine, rows, candidates, truth.now), truth.rank(rows, candidates)
    )
    after = vllm_engine.current_statistics()
    assert (after["running"], after["waiting"]) == (0, 0)
    assert vllm_engine.healthy
