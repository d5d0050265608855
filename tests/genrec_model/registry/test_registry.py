"""MLflow for real, on SQLite: versions, aliases, artifacts, and the model loaded from it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import RegistryError
from genrec_model.evaluation.evaluate import EvaluationOptions, evaluate
from genrec_model.features.prepare import Features
from genrec_model.hstu import HSTU
from genrec_model.registry import models, tracking
from genrec_model.registry.load import load_registered
from genrec_model.training.options import TrainingOptions
from genrec_model.training.run import model_config, train_artifact

SHAPE = {"max_history": 11, "chunk_size": 4, "hidden_size": 16, "num_layers": 1}


def new_artifact(features: Features, path: Path, seed: int) -> Artifact:
    torch.manual_seed(seed)
    artifact = Artifact.create(
        path,
        model=HSTU(model_config(features, SHAPE)),
        vocabulary=features.vocabulary,
        dataset=features.dataset,
        training={},
    )
    evaluate(artifact, features, options=EvaluationOptions(max_targets=50, golden_users=3))
    return artifact


def test_the_life_of_a_version(home: Path, features: Features, tmp_path: Path) -> None:
    artifact = new_artifact(features, tmp_path / "one", seed=1)
    run_id = tracking.start_run("test", tags={"a": "b"})
    tracking.log_epoch(run_id, 1, {"loss": 0.5})
    models.log_dataset(run_id, artifact)
    version = models.register(artifact, run_id=run_id, name="rec", tags={"pipeline_run": "p1"})
    assert models.aliases("rec") == {"challenger": version}

    tags = models.version_tags("rec", version)
    assert tags["data_digest"] == features.dataset.digest
    assert tags["pipeline_run"] == "p1"
    assert tags["run_id"] == run_id
    run = tracking.client().get_run(run_id)
    assert run.data.metrics["loss"] == 0.5
    assert run.data.metrics["test.hstu.hr_10"] == artifact.metrics["retrieval"]["hstu"]["hr_10"]
    assert run.inputs.dataset_inputs[0].dataset.name == "tiny"

    # The same model keeps its version; another one gets the next.
    again = models.register(artifact, run_id=run_id, name="rec", tags={})
    other = new_artifact(features, tmp_path / "two", seed=2)
    newer = models.register(other, run_id=run_id, name="rec", tags={})
    assert again == version
    assert int(newer) == int(version) + 1
    assert models.version_of("rec", "challenger") == newer

    # A champion that is registered again stays champion and is nobody's challenger.
    models.set_alias("rec", "champion", version)
    models.delete_alias("rec", "challenger")
    models.register(artifact, run_id=run_id, name="rec", tags={})
    assert models.aliases("rec") == {"champion": version}
    listed = models.list_versions("rec")
    assert [(v.version, v.aliases) for v in listed] == [(newer, ()), (version, ("champion",))]

    found = models.download_artifact("models:/rec@champion", tmp_path / "models")
    assert (found.name, found.version) == ("rec", version)
    assert Artifact(found.path).identity() == artifact.identity()
    assert Artifact(found.path).golden == artifact.golden
    assert models.download_artifact(f"models:/rec/{version}", tmp_path / "models") == found
    assert Path(models.storage_uri("rec", version), "config.json").is_file()

    loaded = load_registered("models:/rec@champion", tmp_path / "loaded", data_digest="sha256:1")
    assert tracking.client().get_run(loaded).data.tags["loaded_from"] == f"models:/rec/{version}"
    assert not (tmp_path / "loaded" / "metrics.json").exists()

    import mlflow

    request = artifact.golden[0]
    frame = pd.DataFrame(
        {"history": [json.dumps(request["history"])], "now": [request["now"]], "k": [request["k"]]}
    )
    answer = json.loads(mlflow.pyfunc.load_model("models:/rec@champion").predict(frame)[0])
    assert [item["item_id"] for item in answer] == request["expected"]["items"]
    assert [item["score"] for item in answer] == pytest.approx(request["expected"]["scores"])


def test_training_is_a_run(home: Path, features: Features, tmp_path: Path) -> None:
    options = TrainingOptions(epochs=2, batch_rows=512, validation_targets=50)
    trained = train_artifact(
        features, tmp_path / "model", model_name="rec", model_options=SHAPE, options=options
    )
    run = tracking.client().get_run(trained.run_id)
    assert run.data.params["training.epochs"] == "2"
    assert run.data.params["model.max_history"] == "11"
    losses = tracking.client().get_metric_history(trained.run_id, "next_item_loss")
    assert [metric.step for metric in losses] == [1, 2]
    assert len(trained.artifact.training["history"]) == 2
    assert not list((home / "checkpoints").iterdir())


def test_an_injected_run_is_used(
    home: Path, features: Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genrec_model.settings import settings

    injected = tracking.start_run("by kubeflow", tags={})
    monkeypatch.setenv("MLFLOW_RUN_ID", injected)
    settings.cache_clear()
    assert tracking.start_run("ours", tags={"git_commit": "abc"}) == injected
    assert tracking.client().get_run(injected).data.tags["git_commit"] == "abc"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("rec", "models:/NAME@ALIAS"),
        ("models:/rec", "models:/NAME@ALIAS"),
        ("models:/rec@champion", "has no alias 'champion'"),
        ("models:/rec/7", "no version 7"),
    ],
)
def test_what_the_registry_lacks(home: Path, tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        models.download_artifact(uri, tmp_path)
    assert not list(tmp_path.glob("rec*"))


def test_aliases_of_nothing(home: Path) -> None:
    assert models.aliases("rec") == {}
    assert models.list_versions("rec") == []
    with pytest.raises(RegistryError):
        models.set_alias("rec", "champion", "1")


def test_names_that_mlflow_allows() -> None:
    flat = tracking.flatten({"a b": {"x@10": 1, "flag": True, "text": "t"}, "c": 2.5})
    assert flat == {"a_b.x_10": 1.0, "c": 2.5}
