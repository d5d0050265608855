"""vLLM with the item table in a hot cache scores as it does with the whole table."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine
from genrec_serving.vllm_plugin import compute, item_rows

pytestmark = pytest.mark.slow

NONE = np.empty(0, np.int64)
CACHED: list[item_rows.CachedItems] = []


@pytest.fixture(scope="session")
def cached_engine(
    odd_engine: tuple[ScoringEngine, object], served_artifact: Artifact
) -> Iterator[ScoringEngine]:
    """A tenth of the items has slots; passes are padded, as those are that become CUDA graphs.

    It asks for the other engines so that all are closed at the end: closing one ends all.
    """
    from genrec_serving.engines.vllm_engine import VllmEngine, VllmOptions

    plain = compute.additional_config

    def with_cache(**options: str) -> dict[str, dict[str, object]]:
        out = plain(**options)
        out["genrec"]["item_cache"] = {"slots": 0.1, "above": 0.0}
        return out

    class Watched(item_rows.CachedItems):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            CACHED.append(self)

    with (
        patch.object(compute, "additional_config", with_cache),
        patch.object(item_rows, "CachedItems", Watched),
    ):
        engine = VllmEngine(
            served_artifact, version="1", options=VllmOptions(kv_cache_mb=1, passes="padded")
        )
    yield engine
    engine.close()


@pytest.mark.parametrize("events", [0, 15, 49, 300])
async def test_scores_are_those_of_the_whole_table(cached_engine, truth, events) -> None:
    candidates = np.arange(3, 53)[::3]
    for seed in range(3):
        rows = truth.rows(events, seed=seed)
        call = RankCall(rows=rows, now=truth.now, candidates=candidates)
        truth.assert_same(await cached_engine.rank(call), truth.rank(rows, candidates))
        found = await cached_engine.recommend(
            RecommendCall(rows=rows, now=truth.now, k=10, exclude=NONE)
        )
        truth.assert_same(found, truth.recommend(rows, k=10))
    (items,) = CACHED
    shown = items.statistics()
    assert shown["lookups"] > 0
    assert shown["residents"] == shown["capacity"] == round(0.1 * truth.artifact.config.num_items)
    assert shown["decisions_failed"] == shown["copy_failures"] == shown["out_of_range"] == 0
