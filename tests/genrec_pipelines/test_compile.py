"""The cluster's YAML: valid for Kubeflow Pipelines v2, and only changed on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from genrec_model.errors import ConfigError
from genrec_pipelines.cluster import Cluster
from genrec_pipelines.commands.compile import write_pipeline
from genrec_pipelines.recipes import recipe

GOLDEN = Path(__file__).parent / "golden" / "pipeline.yaml"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    write_pipeline(path, Cluster())
    return path


@pytest.fixture(scope="module")
def documents(compiled: Path) -> list[Any]:
    return list(yaml.safe_load_all(compiled.read_text()))


def test_the_yaml_is_the_golden_one(compiled: Path) -> None:
    assert compiled.read_text() == GOLDEN.read_text(), (
        "the compiled pipeline changed; if that is meant, run "
        f"`genrec compile --out {GOLDEN.relative_to(Path(__file__).parents[2])}`"
    )


def test_it_parses_as_a_pipeline(documents: list[Any]) -> None:
    spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == "genrec"
    parameters = set(spec.root.input_definitions.parameters)
    assert parameters == {*recipe("demo").arguments(), "cache_key"}


def test_every_step_runs_in_the_image_and_installs_nothing(documents: list[Any]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"]
    assert len(executors) == 11
    for name, executor in executors.items():
        container = executor["container"]
        assert container["image"] == "ghcr.io/genrec/genrec:0.1.0", name
        assert "pip install" not in " ".join(container["command"]), name


def test_steps_that_look_at_aliases_are_not_cached(documents: list[Any]) -> None:
    tasks = documents[0]["root"]["dag"]["tasks"]
    uncached = {
        name
        for name, task in tasks.items()
        if not task.get("cachingOptions", {}).get("enableCache", False)
    }
    assert uncached == {"find-champion", "register", "roll-out", "make-report"}


def test_the_cluster_gives_volume_secret_and_gpu(documents: list[Any]) -> None:
    train = documents[0]["deploymentSpec"]["executors"]["exec-train-or-load"]["container"]
    assert train["resources"]["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert {"name": "GENREC_HOME", "value": "/mnt/genrec"} in train["env"]
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert platform["exec-train-or-load"]["pvcMount"][0]["mountPath"] == "/mnt/genrec"
    assert platform["exec-register"]["secretAsEnv"][0]["secretName"] == "genrec-mlflow"


def test_as_kubernetes_objects(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "p.yaml", Cluster(mlflow_secret=""), manifest=True)
    objects = list(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    assert {entry["kind"] for entry in objects} == {"Pipeline", "PipelineVersion"}
    assert all(e["apiVersion"] == "pipelines.kubeflow.org/v2beta1" for e in objects)


def test_impossible_clusters() -> None:
    with pytest.raises(ConfigError, match="volume_claim"):
        Cluster(volume_claim="")
