"""ONNX Runtime and PyTorch behind the same interface."""

from collections.abc import Iterator

import numpy as np
import pytest

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, EngineUnavailable
from genrec_serving.engines.interface import RankCall, RecommendCall, ScoringEngine
from genrec_serving.engines.onnx_engine import OnnxEngine
from genrec_serving.engines.torch_engine import TorchEngine

NONE = np.empty(0, np.int64)


@pytest.fixture(scope="module", params=[TorchEngine, OnnxEngine], ids=["torch", "onnxruntime"])
def engine(request, served_artifact) -> Iterator[ScoringEngine]:
    engine = request.param(served_artifact)
    yield engine
    engine.close()


@pytest.mark.parametrize("events", [0, 1, 15, 16, 47, 48, 300])
async def test_ranking(engine, truth, events) -> None:
    rows, candidates = truth.rows(events), np.array([52, 3, 7])
    found = await engine.rank(RankCall(rows=rows, now=truth.now, candidates=candidates))
    truth.assert_same(found, truth.rank(rows, candidates))
    assert found.cached_rows == 0


@pytest.mark.parametrize("events", [0, 30])
@pytest.mark.parametrize("k", [1, 10, 1000])
async def test_recommendation(engine, truth, events, k) -> None:
    rows = truth.rows(events)
    found = await engine.recommend(RecommendCall(rows=rows, now=truth.now, k=k, exclude=NONE))
    truth.assert_same(found, truth.recommend(rows, k))


async def test_filters(engine, truth) -> None:
    exclude, allow = np.arange(3, 40), np.arange(30, 45)
    call = RecommendCall(rows=truth.rows(9), now=truth.now, k=10, exclude=exclude, allow=allow)
    truth.assert_same(
        await engine.recommend(call), truth.recommend(truth.rows(9), 10, exclude, allow)
    )


async def test_filters_that_leave_nothing(engine, truth) -> None:
    call = RecommendCall(rows=truth.rows(9), now=truth.now, k=3, exclude=np.arange(3, 53))
    found = await engine.recommend(call)
    assert found.items.shape == (0,)
    assert found.task_logits.shape == (0, 2)


async def test_a_failure_below_is_an_engine_error(engine, truth) -> None:
    with pytest.raises(EngineError, match=engine.name):
        await engine.rank(RankCall(rows=truth.rows(3), now=truth.now, candidates=np.array([99])))
    assert engine.healthy


def test_onnx_needs_an_exported_graph(tiny_artifact) -> None:
    assert not (tiny_artifact.path / "onnx" / "model.onnx").exists()
    with pytest.raises(EngineUnavailable, match="export"):
        OnnxEngine(tiny_artifact)


def test_a_broken_graph_is_an_engine_error(served_artifact, tmp_path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((served_artifact.path / name).read_bytes())
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"model\.onnx"):
        OnnxEngine(Artifact(tmp_path))
