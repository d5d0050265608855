"""vLLM with the item table in a hot cache scores as it does with the whole table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine

pytestmark = pytest.mark.slow

NONE = np.empty(0, np.int64)


@pytest.fixture(scope="session")
def cached_engine(
    odd_engine: tuple[ScoringEngine, object],
    served_artifact: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ScoringEngine]:
    """A tenth of the items has slots; passes are padded, as those are that become CUDA graphs.

    It asks for the other engines so that all are closed at the end: closing one ends all.
    """
    from genrec_serving.engines.vllm_engine import VllmEngine
    from genrec_serving.engines.vllm_options import VllmOptions

    state = Path(tmp_path_factory.mktemp("state"))
    engine = VllmEngine(
        served_artifact,
        version="1",
        options=VllmOptions(
            kv_cache_mb=1, passes="padded", item_cache="0.1", cache_state=str(state)
        ),
    )
    yield engine
    engine.close()
    # What it learnt is there for the next one.
    assert (state / "item-cache.npz").is_file()


@pytest.mark.parametrize("events", [0, 15, 49, 300])
async def test_scores_are_those_of_the_whole_table(cached_engine, truth, events) -> None:
    candidates = np.arange(3, 53)[::3]
    before = (await cached_engine.statistics())["item_cache"]
    for seed in range(3):
        rows = truth.rows(events, seed=seed)
        call = RankCall(rows=rows, now=truth.now, candidates=candidates)
        truth.assert_same(await cached_engine.rank(call), truth.rank(rows, candidates))
        found = await cached_engine.recommend(
            RecommendCall(rows=rows, now=truth.now, k=10, exclude=NONE)
        )
        truth.assert_same(found, truth.recommend(rows, k=10))
    shown = (await cached_engine.statistics())["item_cache"]
    assert (shown["state"], shown["start"], shown["problem"]) == ("on", "popularity", "")
    assert shown["residents"] == shown["capacity"] == round(0.1 * truth.artifact.config.num_items)
    for moves in ("lookups", "accesses", "hits", "unique", "unique_hits"):
        assert shown[moves] > before[moves]
    assert 0 < shown["unique_hit_rate"] < 1
    assert 0 <= shown["hot_set_overlap"] <= 1
    assert shown["slot_bytes"] < 0.15 * shown["host_bytes"]
