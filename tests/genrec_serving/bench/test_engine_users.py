"""Who asks an engine in its benchmark."""

from __future__ import annotations

import asyncio
from collections import Counter

import numpy as np
import pytest

from genrec_serving.bench.engine_start import write_model
from genrec_serving.bench.engine_users import PRESETS, Users, closed_loop
from genrec_serving.bench.item_popularity import ItemPopularity
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Users:
    preset = PRESETS["small"]
    folder = tmp_path_factory.mktemp("model") / "artifact"
    return Users(write_model(preset, folder, ItemPopularity(preset.items, 0.0)), preset, 6)


def test_lengths_are_spread_about_their_mean() -> None:
    lengths = PRESETS["dlrmv3"].lengths(np.random.default_rng(0), 20_000)
    assert np.mean(lengths) == pytest.approx(7000, rel=0.02)
    assert min(lengths) >= 0
    assert 15_000 < max(lengths) <= 16_383
    assert set(PRESETS["owner"].lengths(np.random.default_rng(0), 5)) == {1535}


def test_strangers_share_no_beginning(users: Users) -> None:
    firsts = [int(users.stranger().items[1]) for _ in range(200)]  # after the start row
    assert len(set(firsts)) == 200


class _Engine(ScoringEngine):
    """Answers after a turn of the event loop, and notes who was there together."""

    def __init__(self) -> None:
        self.there = self.most = 0
        self.lengths: Counter[int] = Counter()

    async def rank(self, call: RankCall) -> Scored:
        self.there += 1
        self.most = max(self.most, self.there)
        self.lengths[len(call.rows.items)] += 1
        await asyncio.sleep(0.001)
        self.there -= 1
        nothing = np.zeros((0, 0), np.float32)
        return Scored(items=call.candidates, scores=nothing.ravel(), task_logits=nothing)

    async def recommend(self, call: RecommendCall) -> Scored:
        raise NotImplementedError


async def test_users_take_turns(users: Users) -> None:
    engine = _Engine()
    load = await closed_loop(engine, users, 6, 0.2, at_once=2)
    assert engine.most == 2
    assert len(load.latencies_ms) == sum(engine.lengths.values())
    came = [(len(history.items) - 191) // 2 for history in users._histories]
    assert sum(came) == len(load.latencies_ms)
    assert min(came) >= max(came) - 2


async def test_strangers_come_with_whole_histories(users: Users) -> None:
    engine = _Engine()
    await closed_loop(engine, users, 3, 0.05, cold=True)
    assert engine.most == 3
    assert set(engine.lengths) == {192}
