"""A real engine with a small pool keeps the pages of users who come back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_serving.engines.interface import RankCall, ScoringEngine

pytestmark = pytest.mark.slow

CANDIDATES = np.array([5, 9, 20])
WHOLE_PAGES = 32  # of 47 rows


@pytest.fixture(scope="session")
def fresh_engine(
    odd_engine: tuple[ScoringEngine, object], served_artifact: Artifact
) -> Iterator[ScoringEngine]:
    """One that has learnt nothing from other tests' users.

    It asks for the other engines so that all are closed at the end: closing one ends all.
    """
    from genrec_serving.engines.vllm_engine import VllmEngine
    from genrec_serving.engines.vllm_options import VllmOptions

    engine = VllmEngine(
        served_artifact, version="1", options=VllmOptions(kv_cache_mb=1, page_order="return")
    )
    yield engine
    engine.close()


async def test_users_who_come_back_find_their_pages(fresh_engine, truth) -> None:
    faithful = [truth.rows(46, seed=10_000 + user) for user in range(3)]
    others = iter(range(20_000, 30_000))
    pages = (await fresh_engine.statistics())["pages"]
    found = []
    for _ in range(12):
        for rows in faithful:
            call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
            scored = await fresh_engine.rank(call)
            truth.assert_same(scored, truth.rank(rows, CANDIDATES))
            found.append(scored.cached_rows)
        # As many as fill the pool: the pages that were not used for longest would be gone.
        for _ in range(pages // 2):
            rows = truth.rows(46, seed=next(others))
            await fresh_engine.rank(RankCall(rows=rows, now=truth.now, candidates=CANDIDATES))
    assert found[:3] == [0, 0, 0]
    assert found[-9:] == [WHOLE_PAGES] * 9
    shown = (await fresh_engine.statistics())["page_order"]
    assert (shown["order"], shown["problem"]) == ("return", "")
    assert shown["pages_chosen"] > 0
