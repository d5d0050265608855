"""Linear layers in eight bits. What they cost a trained model, `bench.page_quality` tells."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from genrec_kernels.fp8_pages import FP8
from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError
from genrec_model.hstu.layer import HSTULayer
from genrec_serving.engines.interface import RankCall, RecommendCall, Scored, ScoringEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.vllm_processes import VllmProcesses
from genrec_serving.vllm_plugin.compute import ComputeOptions, additional_config, compute_options
from genrec_serving.vllm_plugin.fp8_pages import page_scales

NONE = np.empty(0, np.int64)
CANDIDATES = np.arange(3, 53)
#: Mean difference of scores in their deviation. Three bits of fraction are off by 2.6 % in the mean
#: square, so that a product of two such operands is by some 4 %, which so small a model with random
#: weights does little to average out; it is 2 to 6 % here. Far less would mean that nothing is
#: rounded.
MOST_OFF, LEAST_OFF = 0.1, 0.005
#: The same of a history fresh and cached. Each row is rounded for itself, but sums in another order
#: may put a number on the other side of the middle between two in eight bits.
MOST_MOVED = 0.01
FLAGS = pytest.mark.parametrize(
    ("fp8_pages", "fp8_linear", "named"),
    [
        (True, False, "--fp8-pages"),
        (False, True, "--fp8-linear"),
        (True, True, "--fp8-pages and --fp8-linear"),
    ],
)


def compute(*, fp8_pages: bool = False, fp8_linear: bool = False) -> ComputeOptions:
    """What a model is told, through vLLM."""
    config = additional_config(
        dtype="bfloat16", passes="graphs", fp8_pages=fp8_pages, fp8_linear=fp8_linear
    )
    return compute_options(SimpleNamespace(additional_config=config))


@FLAGS
def test_what_a_model_is_told(fp8_pages: bool, fp8_linear: bool, named: str) -> None:
    found = compute(fp8_pages=fp8_pages, fp8_linear=fp8_linear)
    assert found.dtype == torch.bfloat16
    assert (found.page_dtype == FP8) == ("pages" in named)
    assert (found.linear_dtype == FP8) == ("linear" in named)
    assert compute().page_dtype == compute().linear_dtype == torch.bfloat16


@FLAGS
def test_a_gpu_that_lacks_the_type_refuses_it(
    fp8_pages: bool, fp8_linear: bool, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    asked = compute(fp8_pages=fp8_pages, fp8_linear=fp8_linear)
    with pytest.raises(ConfigError, match=rf"^{named}: .*capability 8\.9, and A100 is older$"):
        asked.check_device(device)
    compute().check_device(device)
    asked.check_device(torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    asked.check_device(device)


def off(found: Scored, exact: Scored) -> float:
    """Mean difference of scores in their deviation, or of the tasks' where that is greater."""
    pairs = ((found.scores, exact.scores), (found.task_logits, exact.task_logits))
    return max(float(np.abs(mine - its).mean() / its.std()) for mine, its in pairs)


@pytest.fixture(scope="session")
def fp8_linear_engine(odd_engine: Any, served_artifact: Artifact) -> Iterator[ScoringEngine]:
    """Its passes are padded, as those are that become CUDA graphs.

    It asks for the other engines so that all are closed at the end: closing one ends all.
    """
    from genrec_serving.engines.vllm_engine import VllmEngine

    options = VllmOptions(kv_cache_mb=1, fp8_linear=True, passes="padded")
    engine = VllmEngine(served_artifact, version="1", options=options)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def narrow_engine(fp8_linear_engine: Any, served_artifact: Artifact) -> Iterator[ScoringEngine]:
    """Pages in eight bits, too."""
    from genrec_serving.engines.vllm_engine import VllmEngine

    options = VllmOptions(kv_cache_mb=1, fp8_linear=True, fp8_pages=True)
    engine = VllmEngine(served_artifact, version="1", options=options)
    yield engine
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fp8_linear_engine", "narrow_engine"])
@pytest.mark.parametrize("events", [0, 15, 16, 47, 300])
async def test_scores_are_near_and_the_same_fresh_and_cached(
    name: str, events: int, truth: Any, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(name)
    for seed in range(3):
        rows = truth.rows(events, seed=seed)
        call = RankCall(rows=rows, now=truth.now, candidates=CANDIDATES)
        fresh, cached = await engine.rank(call), await engine.rank(call)
        assert cached.cached_rows == (len(rows.items) - 1) // 16 * 16
        assert off(cached, fresh) < MOST_MOVED
        assert LEAST_OFF < off(fresh, truth.rank(rows, CANDIDATES)) < MOST_OFF
        best = await engine.recommend(RecommendCall(rows=rows, now=truth.now, k=10, exclude=NONE))
        assert len(set(best.items.tolist()) & set(truth.recommend(rows, 10).items.tolist())) >= 7


@pytest.mark.slow
def test_scales_of_pages_are_of_narrow_layers(
    narrow_engine: Any, served_artifact: Artifact
) -> None:
    worker = narrow_engine._engine._core.engine_core.model_executor.driver_worker
    served = worker.worker.model_runner.model
    found = [served._paged[layer].scales.kv for layer in served.hstu.layers]
    model = served_artifact.load_model()
    wide = [scales.kv for scales in page_scales(model).values()]
    for layer in model.layers:
        assert isinstance(layer, HSTULayer)
        layer.narrow()
    narrow = [scales.kv for scales in page_scales(model).values()]
    torch.testing.assert_close(found, narrow, rtol=1e-3, atol=0)
    assert all((a / b - 1).abs().max() > 2e-3 for a, b in zip(narrow, wide, strict=True))


@pytest.mark.slow
def test_statistics_say_so(vllm_engine: Any, fp8_linear_engine: Any, narrow_engine: Any) -> None:
    engines = (vllm_engine, fp8_linear_engine, narrow_engine)
    found = [engine.current_statistics() for engine in engines]
    assert [one["linear_dtype"] for one in found] == ["float32", *["float8_e4m3fn"] * 2]
    assert [one["page_dtype"] for one in found] == [*["float32"] * 2, "float8_e4m3fn"]


@pytest.fixture(scope="module")
def narrow_processes(served_artifact: Artifact) -> Iterator[VllmProcesses]:
    """Two processes with pages in eight bits, too, of which the pools hold 320 users' together."""
    options = VllmOptions(
        kv_cache_mb=2, processes=2, host_cache_mb=8, fp8_pages=True, fp8_linear=True
    )
    made = VllmProcesses(served_artifact, version="1", options=options)
    yield made
    made.close()


@pytest.mark.slow
async def test_processes_and_the_hosts_memory(narrow_processes: VllmProcesses, truth: Any) -> None:
    users = [truth.rows(47, seed=seed) for seed in range(500)]
    calls = [RankCall(rows=rows, now=truth.now, candidates=CANDIDATES) for rows in users]
    fresh, cached = [
        await asyncio.gather(*map(narrow_processes.rank, calls)) for _ in ("fresh", "cached")
    ]
    for rows, first, second in zip(users[:50], fresh, cached, strict=False):
        assert off(second, first) < MOST_MOVED
        assert LEAST_OFF < off(first, truth.rank(rows, CANDIDATES)) < MOST_OFF
    found = (await narrow_processes.statistics())["processes"]
    assert [one["linear_dtype"] for one in found] == ["float8_e4m3fn"] * 2
    assert all(one["host_cache"]["hits"] > 0 for one in found)
