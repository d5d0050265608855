"""ONNX equals plain PyTorch: one operator or standard ones, any sizes, any history."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from genrec_model.artifact import Artifact
from genrec_model.engines.onnxruntime_engine import load_onnx
from genrec_model.errors import EngineError, GateFailed
from genrec_model.export.export_artifact import export_artifact
from genrec_model.export.hstu_op import DOMAIN, NAME
from genrec_model.export.onnx_export import export_onnx
from genrec_model.export.padded import PaddedHSTU, padded_inputs
from genrec_model.export.parity import Parity, measure_parity, parity_users
from genrec_model.features.rows import collate
from genrec_model.hstu import HSTU, HSTUConfig


@pytest.fixture(scope="module")
def exported(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    artifact = tiny_artifact.copy_to(tmp_path_factory.mktemp("export") / "artifact")
    report = export_artifact(artifact)
    assert report["max_abs_error"] <= 1e-4
    assert artifact.parity == report
    return artifact


def test_the_operator_carries_its_body(exported: Artifact) -> None:
    model = onnx.load(exported.path / "onnx" / "model.onnx")
    calls = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in calls] == [NAME] * exported.config.num_layers
    assert [(f.domain, f.name) for f in model.functions] == [(DOMAIN, NAME)]


def test_the_plain_graph_has_standard_operators_only(exported: Artifact) -> None:
    model = onnx.load(exported.path / "onnx" / "plain.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions


@pytest.mark.parametrize("name", ["model.onnx", "plain.onnx"])
def test_sizes_are_free(exported: Artifact, name: str) -> None:
    runtime = load_onnx(exported.path / "onnx" / name)
    users = parity_users(exported)
    for batch in ([users[0]], [users[1]], users[:3], users):
        parity = measure_parity(exported, batch, runtime)
        assert parity.users == len(batch)
        assert parity.max_abs_error <= 1e-4


def test_padded_is_jagged_in_torch(tiny_artifact: Artifact) -> None:
    model, users = tiny_artifact.load_model(), parity_users(tiny_artifact)
    for custom_op in (False, True):
        with torch.inference_mode():
            inputs = [torch.from_numpy(x) for x in padded_inputs(users).values()]
            user, tasks = PaddedHSTU(model, custom_op=custom_op).eval()(*inputs)
        scores = model.score(collate(users))
        for row, (expected, rows) in enumerate(zip(scores, users, strict=True)):
            torch.testing.assert_close(user[row], expected.user, atol=1e-5, rtol=1e-5)
            found = tasks[row, : len(rows.candidates)]
            torch.testing.assert_close(found, expected.tasks, atol=1e-5, rtol=1e-5)


def test_a_model_without_bias(tiny_artifact: Artifact, tmp_path: Path) -> None:
    config = HSTUConfig.from_dict({**tiny_artifact.config.to_dict(), "relative_bias": False})
    torch.manual_seed(0)
    model = HSTU(config).eval()
    export_onnx(model, tmp_path / "model.onnx")
    fake = SimpleNamespace(load_model=lambda: model)
    runtime = load_onnx(tmp_path / "model.onnx")
    parity = measure_parity(fake, parity_users(tiny_artifact), runtime)  # type: ignore[arg-type]
    assert parity.max_abs_error <= 1e-4


def test_parity_sees_a_wrong_number(exported: Artifact) -> None:
    runtime = load_onnx(exported.path / "onnx" / "model.onnx")
    users = parity_users(exported)

    for wrong in (0.01, np.nan):

        def broken(inputs, wrong=wrong):  # type: ignore[no-untyped-def]
            user, tasks = runtime(inputs)
            tasks[-1, 0, 0] += wrong
            return user, tasks

        parity = measure_parity(exported, users, broken)
        assert parity.max_abs_error >= 0.009
        with pytest.raises(GateFailed, match="the graph differs from plain PyTorch"):
            parity.require("the graph", absolute=1e-4)


def test_bounds_are_shares_of_the_spread() -> None:
    parity = Parity(users=1, scores=1, max_abs_error=0.02, spread=2.0)
    parity.require("x", share=0.01)
    with pytest.raises(GateFailed):
        parity.require("x", share=0.009)


def test_a_file_that_is_no_graph(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"junk")
    with pytest.raises(EngineError, match="ONNX Runtime refuses it"):
        load_onnx(tmp_path / "x.onnx")
