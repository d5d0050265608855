"""The artifact's folder: complete, of one version, never half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import ArtifactError
from genrec_model.files import replacing


def test_copy_is_equal_and_independent(tiny_artifact: Artifact, tmp_path: Path) -> None:
    copy = tiny_artifact.copy_to(tmp_path / "copy")
    copy.write("metrics.json", {"a": 1})
    copy.write("training.json", {"changed": True})
    assert not (tiny_artifact.path / "metrics.json").exists()
    assert tiny_artifact.training == {}
    less = copy.copy_to(tmp_path / "less", leave_out=["metrics.json"])
    assert not (less.path / "metrics.json").exists()


def test_identity_is_the_model_not_its_measurements(
    tiny_artifact: Artifact, tmp_path: Path
) -> None:
    copy = tiny_artifact.copy_to(tmp_path / "copy")
    copy.write("metrics.json", {"a": 1})
    assert copy.identity() == tiny_artifact.identity()
    copy.write("engines/onnxruntime-fp32/engine.json", {})
    with_engine = copy.identity()
    assert with_engine != tiny_artifact.identity()
    copy.write("dataset.json", {})
    assert copy.identity() not in (with_engine, tiny_artifact.identity())


def test_weights_survive(tiny_artifact: Artifact) -> None:
    first, second = tiny_artifact.load_model(), tiny_artifact.load_model()
    assert not first.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no model artifact here"):
        Artifact(tmp_path)


def test_parts_of_another_version_are_refused(tiny_artifact: Artifact, tmp_path: Path) -> None:
    copy = tiny_artifact.copy_to(tmp_path / "a")
    config = json.loads((copy.path / "config.json").read_text())
    copy.write("config.json", {**config, "num_items": 77})
    with pytest.raises(ArtifactError, match="not of one version"):
        _ = Artifact(copy.path).vocabulary
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        Artifact(copy.path).load_model()
    dataset = json.loads((copy.path / "dataset.json").read_text())
    copy.write("dataset.json", {**dataset, "format_version": 99})
    with pytest.raises(ArtifactError, match="format version 99"):
        _ = Artifact(copy.path).dataset


def test_broken_weights(tiny_artifact: Artifact, tmp_path: Path) -> None:
    copy = tiny_artifact.copy_to(tmp_path / "a")
    with replacing(copy.path / "model.safetensors") as temporary:
        temporary.write_bytes(b"junk")
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        copy.load_model()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
