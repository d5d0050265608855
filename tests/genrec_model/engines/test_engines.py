"""Engines are built for real, and their records claim nothing that was not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec_model.artifact import Artifact
from genrec_model.engines.base import EngineRecord, parse_engine_name, sha256
from genrec_model.engines.build import BUILDERS, TOLERANCE, build_engines, engine_records
from genrec_model.engines.onnxruntime_engine import load_onnx
from genrec_model.errors import ArtifactError, ConfigError, EngineUnavailable, GateFailed
from genrec_model.export.export_artifact import export_artifact
from genrec_model.export.parity import measure_parity, parity_users

needs_rtx = pytest.mark.skipif(
    BUILDERS["tensorrt-rtx"].unavailable() is not None,
    reason=f"TensorRT-RTX cannot build here: {BUILDERS['tensorrt-rtx'].unavailable()}",
)


@pytest.fixture(scope="module")
def artifact(tiny_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    copy = tiny_artifact.copy_to(tmp_path_factory.mktemp("engines") / "artifact")
    export_artifact(copy)
    return copy


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_onnxruntime_engines_are_run(artifact: Artifact, precision: str) -> None:
    (record,) = build_engines(artifact, [f"onnxruntime-{precision}"])
    assert record.executed
    folder = artifact.path / "engines" / f"onnxruntime-{precision}"
    assert EngineRecord.load(folder) == record
    assert record.bytes == (folder / record.file).stat().st_size
    assert record.onnx_sha256 == sha256(folder / record.file)
    again = measure_parity(artifact, parity_users(artifact), load_onnx(folder / record.file))
    assert again.max_abs_error == pytest.approx(record.max_abs_error, rel=0.05, abs=1e-6)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_tensorrt_engines_are_built_and_not_claimed_to_run(
    artifact: Artifact, precision: str
) -> None:
    (record,) = build_engines(artifact, [f"tensorrt-rtx-{precision}"])
    assert not record.executed
    assert record.max_abs_error is None
    assert "not executed" in record.note
    assert record.profile is not None
    assert record.profile.largest.history == artifact.config.max_rows
    plan = artifact.path / "engines" / f"tensorrt-rtx-{precision}" / record.file
    assert plan.stat().st_size == record.bytes > 10_000
    assert record in engine_records(artifact)


@needs_rtx
def test_the_graph_with_the_operator_parses_in_tensorrt(artifact: Artifact, tmp_path: Path) -> None:
    """Without a plugin of that name TensorRT takes the body."""
    from genrec_model.engines.base import Profile

    profile = Profile.for_rows(artifact.config.max_rows)
    plan = tmp_path / "model.plan"
    BUILDERS["tensorrt-rtx"].build(artifact.path / "onnx" / "model.onnx", plan, profile)
    assert plan.stat().st_size > 10_000


def test_a_precision_that_costs_too_much_is_refused(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCE, "int8", 1e-9)
    with pytest.raises(GateFailed, match="the int8 graph differs"):
        build_engines(artifact, ["onnxruntime-int8"])


def test_a_record_cannot_claim_an_error_without_a_run(artifact: Artifact) -> None:
    (record,) = build_engines(artifact, ["onnxruntime-fp32"])
    with pytest.raises(ValueError, match="exactly if it was executed"):
        EngineRecord(**{**vars(record), "executed": False})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnxruntime", "BACKEND-PRECISION"),
        ("onnxruntime-fp64", "BACKEND-PRECISION"),
        ("openvino-fp16", "backend is one of"),
        ("onnxruntime-fp8", "builds fp32, fp16, int8"),
    ],
)
def test_engines_that_do_not_exist(artifact: Artifact, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_engines(artifact, [name])


def test_names_with_hyphens() -> None:
    assert parse_engine_name("tensorrt-rtx-fp8") == ("tensorrt-rtx", "fp8")


@pytest.mark.skipif(
    BUILDERS["tensorrt"].unavailable() is None, reason="the full TensorRT is installed here"
)
def test_a_backend_that_is_not_here(artifact: Artifact) -> None:
    with pytest.raises(EngineUnavailable, match="cannot be built here"):
        build_engines(artifact, ["tensorrt-fp16"])


def test_an_artifact_without_onnx(tiny_artifact: Artifact) -> None:
    with pytest.raises(ArtifactError, match="export it first"):
        build_engines(tiny_artifact, ["onnxruntime-fp32"])
