"""One artifact, one vLLM engine and one server process for all tests of serving."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from genrec_model.artifact import Artifact
from genrec_model.export.onnx_export import export_onnx
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import Ints, UserRows, collate, with_candidates
from genrec_model.hstu import HSTU
from genrec_serving.encoding import user_rows
from genrec_serving.engines.interface import Scored, ScoringEngine
from genrec_serving.histories import IndexedHistory
from genrec_serving.local_server import LocalModelServer

NOW = 1_700_000_000


class Truth:
    """What plain PyTorch says, and random users to ask about."""

    now = NOW

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.model = artifact.load_model()
        self.item_ids = artifact.vocabulary.item_ids
        self.actions = artifact.vocabulary.actions

    def history(self, events: int, seed: int = 0) -> IndexedHistory:
        """A random history."""
        rng = np.random.default_rng((events, seed))
        return IndexedHistory(
            items=rng.integers(NUM_RESERVED, self.artifact.config.num_items, events),
            actions=rng.integers(NUM_RESERVED_ACTIONS, self.artifact.config.num_actions, events),
            timestamps=NOW - 10**6 + np.sort(rng.integers(0, 10**6, events)),
        )

    def rows(self, events: int, seed: int = 0) -> UserRows:
        """The same, as rows."""
        return user_rows(self.history(events, seed), self.artifact.config, now=NOW)

    def events_json(self, events: int, seed: int = 0) -> list[dict[str, object]]:
        """The same, as a request has it."""
        history = self.history(events, seed)
        return [
            {
                "item_id": self.item_ids[item - NUM_RESERVED],
                "action": self.actions[action - NUM_RESERVED_ACTIONS],
                "timestamp": time,
            }
            for item, action, time in zip(
                history.items.tolist(),
                history.actions.tolist(),
                history.timestamps.tolist(),
                strict=True,
            )
        ]

    @torch.no_grad()
    def rank(self, rows: UserRows, candidates: Ints) -> Scored:
        """Scores of candidates."""
        batch = collate([with_candidates(rows, candidates, now=NOW)])
        user, logits = self.model.score(batch)[0]
        scores = self.model.catalogue_scores(user.clone())[torch.from_numpy(candidates)]
        return Scored(items=candidates, scores=scores.numpy(), task_logits=logits.numpy())

    @torch.no_grad()
    def recommend(
        self, rows: UserRows, k: int, exclude: Ints | None = None, allow: Ints | None = None
    ) -> Scored:
        """The best items."""
        user = self.model.score(collate([rows]))[0].user.clone()
        scores = self.model.catalogue_scores(user).numpy()
        rows_of_table = np.arange(len(scores))
        left_out = np.isinf(scores) | np.isin(rows_of_table, [] if exclude is None else exclude)
        if allow is not None:
            left_out |= ~np.isin(rows_of_table, allow)
        order = np.argsort(-scores, kind="stable")
        return self.rank(rows, order[~left_out[order]][:k])

    @staticmethod
    def assert_same(found: Scored, wanted: Scored) -> None:
        """Equal items, and scores to 1e-4."""
        assert found.items.tolist() == wanted.items.tolist()
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4, rtol=0)
        np.testing.assert_allclose(found.task_logits, wanted.task_logits, atol=1e-4, rtol=0)


@pytest.fixture(scope="session")
def served_artifact(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny artifact with its ONNX graph."""
    path = Path(tmp_path_factory.mktemp("served")) / "artifact"
    shutil.copytree(tiny_artifact.path, path)
    artifact = Artifact(path)
    (path / "onnx").mkdir(exist_ok=True)
    export_onnx(artifact.load_model(), path / "onnx" / "model.onnx")
    return artifact


@pytest.fixture(scope="session")
def truth(served_artifact: Artifact) -> Truth:
    return Truth(served_artifact)


@pytest.fixture(scope="session")
def vllm_engine(served_artifact: Artifact) -> Iterator[ScoringEngine]:
    """The real engine, small: its pool holds the pages of some forty full histories, and a step
    holds two, so that chunked prefill, eviction and waiting for pages all happen.
    """
    from genrec_serving.engines.vllm_engine import VllmEngine
    from genrec_serving.engines.vllm_options import VllmOptions

    options = VllmOptions(kv_cache_mb=1, max_step_rows=100, max_requests=64)
    engine = VllmEngine(served_artifact, version="1", options=options)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def odd_engine(
    vllm_engine: ScoringEngine, tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ScoringEngine, Truth]]:
    """Another model: no relative bias, one layer more, and chunks that no page size divides; its
    passes are padded, as those are that become CUDA graphs, and a step is scheduled before the one
    before is answered, as on a GPU.

    It asks for the other engine so that both are closed at the end: closing one ends both.
    """
    from genrec_serving.engines.vllm_engine import VllmEngine
    from genrec_serving.engines.vllm_options import VllmOptions

    config = replace(
        tiny_artifact.config, relative_bias=False, num_layers=3, max_history=50, chunk_size=10
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = HSTU(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
    artifact = Artifact.create(
        Path(tmp_path_factory.mktemp("odd")) / "artifact",
        model=model,
        vocabulary=tiny_artifact.vocabulary,
        dataset=tiny_artifact.dataset,
        training={},
    )
    with pytest.MonkeyPatch.context() as patch:
        _overlap_steps(patch)
        options = VllmOptions(kv_cache_mb=1, passes="padded")
        engine = VllmEngine(artifact, version="1", options=options)
    yield engine, Truth(artifact)
    engine.close()


@pytest.fixture
def overlapped_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that the test starts schedule a step before the one before is answered."""
    _overlap_steps(monkeypatch)


def _overlap_steps(patch: pytest.MonkeyPatch) -> None:
    """What vLLM itself does on a GPU only."""
    from vllm.v1.engine.llm_engine import LLMEngine

    start = LLMEngine.from_engine_args

    def overlapped(arguments: Any) -> LLMEngine:
        arguments.scheduler_cls = "vllm.v1.core.sched.async_scheduler.AsyncScheduler"
        engine = start(arguments)
        core = engine.engine_core.engine_core
        core.batch_queue_size = 2
        core.batch_queue = deque(maxlen=core.batch_queue_size)
        core.step_fn = core.step_with_batch_queue
        return engine

    patch.setattr(LLMEngine, "from_engine_args", overlapped)


@pytest.fixture(scope="session")
def histories_file(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events of the users 1 and 2; user 2 has an item and an action that the model lacks."""
    path = Path(tmp_path_factory.mktemp("histories")) / "events.parquet"
    rows = [(1, e["item_id"], e["timestamp"], e["action"]) for e in truth.events_json(20, seed=7)]
    rows += [(2, 1003, NOW - 50, "view"), (2, 77, NOW - 20, "sniff")]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "action"], orient="row")
    # In no order: the store sorts.
    frame.sort("timestamp", "user_id", descending=[True, False]).write_parquet(path)
    return path


@pytest.fixture(scope="session")
def server(
    served_artifact: Artifact, histories_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalModelServer]:
    """A real server process."""
    log = Path(tmp_path_factory.mktemp("server")) / "server.log"
    with LocalModelServer(
        served_artifact.path,
        log=log,
        histories=histories_file,
        model_name="tiny",
        kv_cache_mb=16,
        options=("--item-cache", "0.1"),
    ) as running:
        yield running
