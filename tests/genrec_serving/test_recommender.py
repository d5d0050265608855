"""The recommender over the plain PyTorch engine: checks, filters, answers."""

from typing import Any

import numpy as np
import pytest

from genrec_model.errors import RequestError
from genrec_serving.encoding import user_rows
from genrec_serving.engines.torch_engine import TorchEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.histories import ParquetHistories
from genrec_serving.recommender import Recommender
from genrec_serving.requests import Events, RankQuery, RecommendQuery
from genrec_serving.strategies.strategy import Strategies, start_strategies
from genrec_serving.users.histories import UserHistories
from genrec_serving.users.memory_store import MemoryStore

NOW = 1_700_000_000


def events(*rows: tuple[Any, str, int]) -> Events:
    return Events(
        item_ids=[row[0] for row in rows],
        actions=[row[1] for row in rows],
        timestamps=[row[2] for row in rows],
    )


SOME = events((1003, "view", NOW - 100), (1007, "buy", NOW - 50))


def known_users(artifact, path) -> UserHistories:
    return UserHistories(
        artifact.vocabulary,
        store=MemoryStore(events_per_user=512, max_users=10),
        base=ParquetHistories(path, artifact.vocabulary),
    )


def build(artifact, users=None) -> Recommender:
    engine = TorchEngine(artifact)
    strategies = Strategies(
        factories={}, started={"torch": engine}, default="auto", unavailable={"vllm": "vllm: no"}
    )
    return Recommender(
        artifact=artifact,
        strategies=strategies,
        name="tiny",
        version="7",
        users=users,
        clock=lambda: NOW + 0.5,
    )


@pytest.fixture(scope="module")
def recommender(served_artifact, histories_file) -> Recommender:
    return build(served_artifact, known_users(served_artifact, histories_file))


async def test_an_answer_says_all(recommender, truth) -> None:
    answer = await recommender.recommend(RecommendQuery(history=SOME, k=3, exclude_seen=False))
    rows = await recommender._encoder.history(RecommendQuery(history=SOME), now=NOW)
    wanted = truth.recommend(user_rows(rows, truth.artifact.config, now=NOW), 3)
    assert [item.item_id for item in answer.items] == (wanted.items - 3 + 1000).tolist()
    assert answer.items[0].title == f"Thing {wanted.items[0] - 3}"
    np.testing.assert_allclose([item.score for item in answer.items], wanted.scores, atol=1e-5)
    tasks = [[item.tasks["engagement"], item.tasks["retention"]] for item in answer.items]
    np.testing.assert_allclose(tasks, 1 / (1 + np.exp(-wanted.task_logits)), atol=1e-5)
    assert (answer.model_name, answer.model_version) == ("tiny", "7")
    assert (answer.history_events, answer.cached_events) == (2, 0)
    assert set(answer.timings_ms) == {"queue", "features", "engine", "answer", "total"}


async def test_a_fallback_is_labelled(recommender) -> None:
    answer = await recommender.recommend(RecommendQuery(history=SOME))
    assert (answer.strategy, answer.fallback) == (
        "torch",
        "vllm: no; onnxruntime: this server was not started with it",
    )
    forced = await recommender.recommend(RecommendQuery(history=SOME, strategy="torch"))
    assert (forced.strategy, forced.fallback) == ("torch", None)


async def test_seen_items_are_left_out_as_the_data_set_says(recommender) -> None:
    answer = await recommender.recommend(RecommendQuery(history=SOME, k=1000))
    ids = {item.item_id for item in answer.items}
    assert ids == set(range(1000, 1050)) - {1003, 1007}
    everything = await recommender.recommend(
        RecommendQuery(history=SOME, k=1000, exclude_seen=False)
    )
    assert len(everything.items) == 50


async def test_items_seen_before_the_window_are_left_out_too(recommender) -> None:
    long = events(
        (1000, "view", NOW - 999), *((1001 + i % 20, "view", NOW - 300 + i) for i in range(100))
    )
    answer = await recommender.recommend(RecommendQuery(history=long, k=1000))
    assert {item.item_id for item in answer.items} == set(range(1021, 1050))
    assert answer.history_events < 48


async def test_allow_and_deny(recommender) -> None:
    answer = await recommender.recommend(
        RecommendQuery(history=SOME, allow=[1001, 1002, 1003, "no such"], deny=[1002, 5])
    )
    assert [item.item_id for item in answer.items] == [1001]


async def test_filters_may_leave_nothing(recommender) -> None:
    answer = await recommender.recommend(RecommendQuery(history=SOME, allow=[1001], deny=[1001]))
    assert answer.items == []


async def test_an_empty_history_is_a_new_user(recommender) -> None:
    answer = await recommender.recommend(RecommendQuery(history=events(), k=5))
    assert len(answer.items) == 5
    assert answer.history_events == 0


async def test_ranking_is_ordered_by_the_first_task_or_as_asked(recommender) -> None:
    candidates = list(range(1000, 1020))
    by_task = await recommender.rank(RankQuery(history=SOME, candidates=candidates))
    engagement = [item.tasks["engagement"] for item in by_task.items]
    assert engagement == sorted(engagement, reverse=True)
    by_score = await recommender.rank(
        RankQuery(history=SOME, candidates=candidates, order_by="score")
    )
    scores = [item.score for item in by_score.items]
    assert scores == sorted(scores, reverse=True)
    assert {item.item_id for item in by_score.items} == set(candidates)


async def test_a_known_user(recommender, truth) -> None:
    named = await recommender.recommend(RecommendQuery(user_id=1, k=5))
    history = truth.events_json(20, seed=7)
    given = await recommender.recommend(
        RecommendQuery(
            k=5, history=events(*((e["item_id"], e["action"], e["timestamp"]) for e in history))
        )
    )
    assert named.items == given.items
    unknown_item = await recommender.recommend(RecommendQuery(user_id=2, k=50))
    assert len(unknown_item.items) == 49


async def test_a_known_user_at_an_earlier_time(recommender) -> None:
    answer = await recommender.recommend(RecommendQuery(user_id=1, now=NOW - 10**6 - 1))
    assert answer.history_events == 0


BAD = [
    ({}, "history", 422),
    ({"history": SOME, "user_id": 1}, "user_id", 422),
    ({"user_id": 99}, "user_id", 404),
    ({"history": events((1003, "view", NOW), (5, "view", NOW))}, "history[1].item_id", 422),
    ({"history": events(("1003", "view", NOW))}, "history[0].item_id", 422),
    ({"history": events((1003, "sniff", NOW))}, "history[0].action", 422),
    (
        {"history": events((1003, "view", NOW), (1003, "view", NOW - 1))},
        "history[1].timestamp",
        422,
    ),
    ({"history": events((1003, "view", NOW + 86_401))}, "history[0].timestamp", 422),
    ({"history": events((1003, "view", -1))}, "history[0].timestamp", 422),
    ({"history": events((1003, "view", 2**70))}, "history[0].timestamp", 422),
    ({"history": events(*[(1003, "view", NOW)] * 16_385)}, "history", 422),
    ({"history": SOME, "now": -1}, "now", 422),
    ({"history": SOME, "now": 10**15}, "now", 422),
    ({"history": SOME, "now": NOW - 10**6}, "history[0].timestamp", 422),
    ({"history": SOME, "strategy": "magic"}, "strategy", 422),
]


@pytest.mark.parametrize(("query", "field", "status"), BAD)
async def test_bad_users(recommender, query, field, status) -> None:
    for ask in (
        lambda: recommender.recommend(RecommendQuery(**query)),
        lambda: recommender.rank(RankQuery(**query, candidates=[1000])),
    ):
        with pytest.raises(RequestError) as caught:
            await ask()
        assert (caught.value.field, caught.value.status) == (field, status)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": -3}, "k"),
        ({"k": 1001}, "k"),
        ({"allow": []}, "allow"),
        ({"allow": [5, "x"]}, "allow"),
        ({"allow": [1000] * 16_385}, "allow"),
        ({"deny": [1000] * 16_385}, "deny"),
    ],
)
async def test_bad_recommendations(recommender, query, field) -> None:
    with pytest.raises(RequestError) as caught:
        await recommender.recommend(RecommendQuery(history=SOME, **query))
    assert (caught.value.field, caught.value.status) == (field, 422)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"candidates": []}, "candidates"),
        ({"candidates": [1000, 5]}, "candidates[1]"),
        ({"candidates": [1000, 1001, 1000]}, "candidates[2]"),
        ({"candidates": list(range(1001))}, "candidates"),
        ({"candidates": [1000], "order_by": "monetization"}, "order_by"),
    ],
)
async def test_bad_rankings(recommender, query, field) -> None:
    with pytest.raises(RequestError) as caught:
        await recommender.rank(RankQuery(history=SOME, **query))
    assert (caught.value.field, caught.value.status) == (field, 422)


async def test_the_message_names_what_is_wrong(recommender) -> None:
    with pytest.raises(RequestError, match=r"history\[0\].action: action 'sniff'.*view, buy"):
        await recommender.recommend(RecommendQuery(history=events((1003, "sniff", NOW))))
    with pytest.raises(RequestError, match=r"item '1003'.* look like 1000"):
        await recommender.recommend(RecommendQuery(history=events(("1003", "view", NOW))))


async def test_without_a_store_no_user_is_known(served_artifact) -> None:
    with pytest.raises(RequestError, match="keeps no histories") as caught:
        await build(served_artifact).recommend(RecommendQuery(user_id=1))
    assert caught.value.status == 422


async def test_warm_up_answers_once(recommender) -> None:
    await recommender.warm_up()


def test_a_forced_default_starts_only_that(served_artifact) -> None:
    strategies = start_strategies(
        served_artifact, version="1", default="torch", options=VllmOptions()
    )
    assert strategies.started == ["torch"]
    strategies.close()
