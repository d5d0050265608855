"""Whether an engine answers at all."""

from __future__ import annotations

import numpy as np

from genrec_model.errors import EngineError
from genrec_model.features.rows import Ints, history_rows
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine


def _none() -> Ints:
    return np.empty(0, np.int64)


async def probe(engine: ScoringEngine, *, now: int) -> None:
    """One recommendation and one ranking, of a user without history.

    Raises:
        EngineError: it cannot.
    """
    rows = history_rows(_none(), _none(), _none(), now=now)
    found = await engine.recommend(RecommendCall(rows=rows, now=now, k=1, exclude=_none()))
    if len(found.items) != 1:
        raise EngineError(f"engine {engine.name} recommends nothing to a new user")
    await engine.rank(RankCall(rows=rows, now=now, candidates=found.items))
