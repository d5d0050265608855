"""A pool of few pages with a second home in the host's memory; a process of its own runs this.

vLLM has one connector a process, so that an engine with one cannot share the tests' process.

``python host_tier_cases.py ARTIFACT v1|v2``: which of vLLM's model runners. The second one needs
Triton, which has no CPU backend in vLLM's CPU build: here its kernels run in Triton's interpreter.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from genrec_model.artifact import Artifact
from genrec_model.features.rows import UserRows, collate, history_rows, with_candidates
from genrec_serving.engines import vllm_engine
from genrec_serving.engines.interface import RankCall, Scored
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.vllm_options import VllmOptions

NOW = 1_700_000_000
CANDIDATES = np.array([5, 9, 20])
#: Rows and pages of a whole history, but for its last row, which is always computed.
ROWS, PAGES = 48, 3


class Case:
    """An engine with a pool of eight pages, and what plain PyTorch says."""

    def __init__(self, artifact: Artifact, passes: str, runner: str = "v1") -> None:
        self.artifact, self.passes, self.runner = artifact, passes, runner
        self.model = artifact.load_model()

    def user(self, seed: int, events: int = 47) -> UserRows:
        config, rng = self.artifact.config, np.random.default_rng(seed)
        return history_rows(
            rng.integers(3, config.num_items, events),
            rng.integers(2, config.num_actions, events),
            NOW - 10**6 + np.sort(rng.integers(0, 10**6, events)),
            now=NOW,
        )

    @contextmanager
    def engine(self, *, host_mb: int = 1, **arguments: Any) -> Iterator[VllmEngine]:
        from vllm.engine import arg_utils

        original = arg_utils.EngineArgs
        arg_utils.EngineArgs = partial(original, **{"num_gpu_blocks_override": 9, **arguments})
        options = VllmOptions(
            host_cache_mb=host_mb, max_requests=8, passes=self.passes, model_runner=self.runner
        )
        try:
            engine = VllmEngine(self.artifact, version="1", options=options)
        finally:
            arg_utils.EngineArgs = original
        worker = engine._engine._core.engine_core.model_executor.driver_worker  # type: ignore[union-attr]
        module = type(worker.worker.model_runner).__module__
        assert module == f"vllm.v1.worker.cpu{'.' if self.runner == 'v2' else '_'}model_runner"
        yield engine
        engine.close()

    @torch.no_grad()
    def check(self, found: Scored, rows: UserRows) -> None:
        batch = collate([with_candidates(rows, CANDIDATES, now=NOW)])
        user, logits = self.model.score(batch)[0]
        scores = self.model.catalogue_scores(user.clone())[torch.from_numpy(CANDIDATES)]
        np.testing.assert_allclose(found.scores, scores.numpy(), atol=1e-4, rtol=0)
        np.testing.assert_allclose(found.task_logits, logits.numpy(), atol=1e-4, rtol=0)

    async def ask(self, engine: VllmEngine, rows: UserRows) -> Scored:
        found = await engine.rank(RankCall(rows=rows, now=NOW, candidates=CANDIDATES))
        self.check(found, rows)
        return found


def host(engine: VllmEngine) -> dict[str, Any]:
    found: dict[str, Any] = engine.current_statistics()["host_cache"]
    return found


def never_pays(engine: VllmEngine, *, pays: bool) -> None:
    """Make the decision the same whatever this machine measures."""
    tier = engine._engine._core.engine_core.scheduler.connector.tier  # type: ignore[union-attr]
    tier.costs.copying_pays = lambda rows: pays


async def returning_users(case: Case) -> None:
    with case.engine() as engine:
        never_pays(engine, pays=True)
        users = [case.user(seed) for seed in range(12)]
        for rows in users:
            assert (await case.ask(engine, rows)).cached_rows == 0
        assert host(engine)["hits"] == 0
        assert host(engine)["bytes_in"] == 12 * PAGES * host(engine)["bytes"] // slots(engine)
        for rows in users:  # the pool has the pages of two of them
            assert (await case.ask(engine, rows)).cached_rows == ROWS - 16
        first = host(engine)
        assert first["hits"] == 12
        assert first["hit_rows"] == 12 * (ROWS - 16)
        assert first["evictions"] == 0
        # Many at once: they wait for pages, and share steps.
        for found, rows in zip(
            await asyncio.gather(*(case.ask(engine, rows) for rows in users * 2)),
            users * 2,
            strict=True,
        ):
            assert found.cached_rows > 0
            case.check(found, rows)
        await edited(case, engine, users[3])
        await grown(case, engine)
        await another_version(case, engine, users[4])
        await recomputed(case, engine, users)


def slots(engine: VllmEngine) -> int:
    tier = engine._engine._core.engine_core.scheduler.connector.tier  # type: ignore[union-attr]
    return int(tier._index.slots)


async def edited(case: Case, engine: VllmEngine, rows: UserRows) -> None:
    for column in ("items", "actions", "timestamps"):
        values = getattr(rows, column).copy()
        values[20] = {"items": 3 + (values[20] - 2) % 50, "actions": 5 - values[20]}.get(
            column, values[20] + 1
        )
        found = await case.ask(engine, replace(rows, **{column: values}))
        assert found.cached_rows == 16


async def grown(case: Case, engine: VllmEngine) -> None:
    whole = case.user(100)
    short = replace(
        whole,
        items=whole.items[:36],
        actions=whole.actions[:36],
        timestamps=whole.timestamps[:36],
    )
    assert (await case.ask(engine, short)).cached_rows == 0
    for seed in range(200, 206):
        await case.ask(engine, case.user(seed))
    hits = host(engine)["hits"]
    assert (await case.ask(engine, whole)).cached_rows == 32
    assert host(engine)["hits"] == hits + 1


async def another_version(case: Case, engine: VllmEngine, rows: UserRows) -> None:
    from genrec_serving.vllm_plugin.prefix_hashes import PrefixHasher

    core = engine._engine._core.engine_core  # type: ignore[union-attr]
    old = core.request_block_hasher
    core.request_block_hasher = PrefixHasher(16, "2")
    assert (await case.ask(engine, rows)).cached_rows == 0
    core.request_block_hasher = old
    assert (await case.ask(engine, rows)).cached_rows > 0


async def recomputed(case: Case, engine: VllmEngine, users: list[UserRows]) -> None:
    never_pays(engine, pays=False)
    before = host(engine)
    for rows in users:
        await case.ask(engine, rows)
    after = host(engine)
    assert after["hits"] == before["hits"]
    assert after["recomputed_rows"] >= before["recomputed_rows"] + 10 * (ROWS - 16)
    assert after["bytes_out"] == before["bytes_out"]


async def preempted(case: Case) -> None:
    # All advance by a page a step and need three in the end: vLLM takes pages from some.
    with case.engine(num_gpu_blocks_override=6, long_prefill_token_threshold=16) as engine:
        never_pays(engine, pays=True)
        scheduler = engine._engine._core.engine_core.scheduler  # type: ignore[union-attr]
        taken = []
        original = scheduler._preempt_request

        def preempt(request: Any, *arguments: Any, **named: Any) -> Any:
            taken.append(request.request_id)
            return original(request, *arguments, **named)

        scheduler._preempt_request = preempt
        users = [case.user(300 + seed) for seed in range(8)]
        await asyncio.gather(*(case.ask(engine, rows) for rows in users))
        assert taken
        assert host(engine)["hits"] > 0
        for rows in users:
            assert (await case.ask(engine, rows)).cached_rows > 0


async def small(case: Case) -> None:
    """A host that holds fewer pages than a step stores."""
    vllm_engine_transfer = vllm_engine.host_transfer

    def few(config: Any, options: VllmOptions) -> Any:
        made = vllm_engine_transfer(config, options)
        made.kv_connector_extra_config["slots"] = 4
        return made

    vllm_engine.host_transfer = few
    with case.engine() as engine:
        never_pays(engine, pays=True)
        users = [case.user(400 + seed) for seed in range(6)]
        for _ in range(3):
            await asyncio.gather(*(case.ask(engine, rows) for rows in users))
            for rows in users:
                await case.ask(engine, rows)
        assert host(engine)["evictions"] > 0
        assert host(engine)["bytes_used"] == host(engine)["bytes"]
    vllm_engine.host_transfer = vllm_engine_transfer


def interpret_triton() -> None:
    """Let vLLM find the backend that it asks for; the interpreter needs none."""
    os.environ["TRITON_INTERPRET"] = "1"
    from triton.backends import backends

    driver = SimpleNamespace(is_active=lambda: True)
    backends["cpu"] = SimpleNamespace(driver=driver, compiler=None)  # type: ignore[assignment]


async def main() -> None:
    torch.set_num_threads(1)
    artifact = Artifact(sys.argv[1])
    if sys.argv[2] == "v2":
        interpret_triton()
        newer = Case(artifact, "plain", "v2")
        await returning_users(newer)
        await preempted(newer)
        sys.stdout.write("all cases hold\n")
        return
    plain = Case(artifact, "plain")
    await returning_users(plain)
    await preempted(plain)
    await small(plain)
    await preempted(Case(artifact, "padded"))
    sys.stdout.write("all cases hold\n")


if __name__ == "__main__":
    asyncio.run(main())
