"""A real engine measures what more memory would bring, and the next one starts with the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_serving.engines.interface import RankCall, ScoringEngine
from genrec_serving.vllm_plugin import memory_plan, memory_watch

pytestmark = pytest.mark.slow

BUDGET = 2 << 20
CANDIDATES = np.array([5, 9, 20])


@pytest.fixture(scope="session")
def engines(
    odd_engine: tuple[ScoringEngine, object],
    served_artifact: Artifact,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Starter]:
    """It asks for the other engines so that all are closed at the end: closing one ends all."""
    with ExitStack() as stack:
        yield Starter(served_artifact, Path(tmp_path_factory.mktemp("state")), stack)


class Starter:
    """Starts engines, one after the other, which go by one state."""

    def __init__(self, artifact: Artifact, state: Path, stack: ExitStack) -> None:
        self.state = state
        self._artifact = artifact
        self._stack = stack

    def start(self) -> ScoringEngine:
        """One more."""
        from genrec_serving.engines.vllm_engine import VllmEngine
        from genrec_serving.engines.vllm_options import VllmOptions

        engine = VllmEngine(
            self._artifact,
            version="1",
            options=VllmOptions(
                kv_cache_mb=1, cache_budget_mb=BUDGET >> 20, cache_state=str(self.state)
            ),
        )
        self._stack.callback(engine.close)
        return engine


async def test_the_next_engine_has_the_better_split(engines, truth, monkeypatch) -> None:
    # A decision after every step, and a table of some kilobytes may be split.
    monkeypatch.setattr(memory_watch, "INTERVAL_S", 0.0)
    monkeypatch.setattr(memory_plan, "LEAST_SHARE", 0.001)
    # Rows cost nothing, so that the outcome is certain.
    monkeypatch.setattr(memory_watch, "time_of_miss", lambda _: 0.0)
    first = engines.start()
    table_bytes = truth.model.item_embedding.weight.nbytes
    stats = await first.statistics()
    shown = stats["memory_split"]
    # All of the table fits; what is over goes to pages.
    assert shown["in_force"] == {"kv": BUDGET - table_bytes, "rows": table_bytes}
    # A few users more than the pool holds, each with two whole pages, who come back.
    users = (stats["pages"] + shown["step_pages"] // 2) // 2
    for _ in range(3):
        for user in range(users):
            rows = truth.rows(46, seed=user)
            call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
            found = await first.rank(call)
            if user % 100 == 0:
                truth.assert_same(found, truth.rank(rows, CANDIDATES))
    shown = (await first.statistics())["memory_split"]
    assert shown["pages_dropped"] > 0
    assert shown["in_force"]["kv"] == BUDGET - table_bytes
    assert shown["next"]["rows"] < table_bytes
    assert sum(shown["next"].values()) == BUDGET
    assert shown["problem"] == ""

    second = engines.start()
    after = await second.statistics()
    assert after["memory_split"]["in_force"] == shown["next"]
    row_bytes = truth.model.item_embedding.weight[0].nbytes
    assert after["item_cache"]["capacity"] == shown["next"]["rows"] // row_bytes
    rows = truth.rows(30, seed=3)
    call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
    truth.assert_same(await second.rank(call), truth.rank(rows, CANDIDATES))
