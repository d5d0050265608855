"""A real engine with a small pool keeps the pages of users who come back."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_serving.engines.interface import RankCall

pytestmark = pytest.mark.slow

CANDIDATES = np.array([5, 9, 20])
WHOLE_PAGES = 32  # of 47 rows


async def test_users_who_come_back_find_their_pages(vllm_engine, truth) -> None:
    faithful = [truth.rows(46, seed=10_000 + user) for user in range(3)]
    others = iter(range(20_000, 30_000))
    pages = (await vllm_engine.statistics())["pages"]
    found = []
    for _ in range(12):
        for rows in faithful:
            call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
            scored = await vllm_engine.rank(call)
            truth.assert_same(scored, truth.rank(rows, CANDIDATES))
            found.append(scored.cached_rows)
        # As many as fill the pool: the pages that were not used for longest would be gone.
        for _ in range(pages // 2):
            rows = truth.rows(46, seed=next(others))
            await vllm_engine.rank(RankCall(rows=rows, now=truth.now, candidates=CANDIDATES))
    assert found[:3] == [0, 0, 0]
    assert found[-9:] == [WHOLE_PAGES] * 9
    shown = (await vllm_engine.statistics())["page_order"]
    assert (shown["order"], shown["problem"]) == ("return", "")
    assert shown["pages_chosen"] > 0
