"""The whole pipeline on a small file: killed, resumed, served, promoted, and run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genrec_model.registry import models
from genrec_pipelines.local_pipeline import LocalRun, run_locally
from genrec_pipelines.recipes import Recipe

pytestmark = pytest.mark.slow

SURFACES = {"rest", "v1", "v2", "v2_binary", "grpc"}


class KilledError(Exception):
    """Stands for a killed process."""


def shop_recipe(shop: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "dataset": "columns",
        "path": str(shop),
        "columns": (
            *("user=uid", "item=sku", "timestamp=ts", "value=spend"),
            *("engagement_threshold=2", "spend_threshold=3"),
        ),
        "model_name": "shop",
        "engines": ("onnxruntime-fp32",),
        "validation": {"min_events": 500},
        "model": {"hidden_size": 32, "num_layers": 1, "max_history": 31, "chunk_size": 16},
        "training": {"epochs": 6, "batch_rows": 512, "learning_rate": 5e-3},
        "evaluation": {"golden_users": 16, "gate": {"min_task_auc": 0.0}},
        "rollout": {"requests_per_step": 80, "slo": {"max_p95_ms": 5000.0}},
    }
    return Recipe(**{**values, **changes})


@pytest.fixture(scope="module")
def finished(
    home: Path, shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LocalRun, list[str]]:
    """A run that is killed after two epochs, and then run again to its end."""
    folder = tmp_path_factory.mktemp("run")

    def kill(step: str, line: str) -> None:
        if "epoch 2:" in line:
            raise KilledError

    with pytest.raises(KilledError):
        run_locally(shop_recipe(shop), folder, on_line=kill)
    assert not (folder / "summary.json").exists()
    lines: list[str] = []
    run = run_locally(shop_recipe(shop), folder, on_line=lambda _, line: lines.append(line))
    return run, lines


def executed(lines: list[str]) -> set[str]:
    return {line.split("'")[1] for line in lines if "Executing task" in line}


def test_a_killed_run_resumes(finished: tuple[LocalRun, list[str]]) -> None:
    _, lines = finished
    assert not executed(lines) & {"ingest", "validate", "make-features"}
    epochs = [line for line in lines if "genrec_model.training.train: epoch" in line]
    assert "epoch 1:" not in " ".join(epochs)
    assert "epoch 6:" in " ".join(epochs)


def test_the_summary_is_complete(finished: tuple[LocalRun, list[str]], home: Path) -> None:
    run, _ = finished
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary == run.summary
    assert summary["dataset"]["events"] == 2400
    assert (summary["dataset"]["users"], summary["dataset"]["items"]) == (80, 60)
    assert (run.folder / "events.parquet").is_file()
    assert summary["validation"]["success"] is True
    assert summary["model"]["hr_10"] > 1.5 * summary["model"]["popularity_hr_10"]
    assert set(summary["model"]["tasks"]) == {"engagement", "retention", "monetization"}
    assert summary["onnx"]["max_abs_error"] <= 1e-4
    assert Path(summary["onnx"]["path"]).is_file()
    (engine,) = summary["engines"]
    assert (engine["backend"], engine["precision"], engine["executed"]) == (
        "onnxruntime",
        "fp32",
        True,
    )
    version = summary["mlflow"]["model_version"]
    assert summary["mlflow"]["aliases"] == {"champion": version}
    assert set(summary["endpoint"]) == SURFACES
    assert {answer["status"] for answer in summary["endpoint"].values()} == {200}
    assert len({answer["top_item"] for answer in summary["endpoint"].values()}) == 1
    assert summary["rollout"]["promoted"] is True
    assert [step["decision"] for step in summary["rollout"]["steps"]] == ["promote"]
    assert len(summary["recommendations"]) == 3
    for user in summary["recommendations"]:
        assert len(user["items"]) == 5
    assert set(summary["seconds"]) == {
        *("ingest", "validate", "features", "train", "evaluate", "export_onnx"),
        *("build_engines", "roll_out", "total"),
    }
    assert models.aliases("shop") == {"champion": version}
    assert models.version_tags("shop", version)["rollout_state"] == "promoted"


def test_the_report_shows_it(finished: tuple[LocalRun, list[str]]) -> None:
    page = finished[0].report.read_text()
    assert page.count("<svg") == 5
    for text in ("promoted to champion", "monetization", "v2_binary", "onnxruntime"):
        assert text in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace(
        "http://purl.org", ""
    ).replace("http://creativecommons.org", "")
    assert (finished[0].folder / "validation.html").is_file()


def test_the_same_run_again_trains_nothing(
    finished: tuple[LocalRun, list[str]], shop: Path, tmp_path: Path
) -> None:
    before = finished[0].summary
    lines: list[str] = []
    again = run_locally(
        shop_recipe(shop, target="none"), tmp_path, on_line=lambda _, line: lines.append(line)
    ).summary
    assert "train-or-load" not in executed(lines)
    assert again["mlflow"]["run_id"] == before["mlflow"]["run_id"]
    # It was measured again, as there is a champion now: itself. It is the same model still.
    assert again["model"]["champion_hr_10"] == before["model"]["hr_10"]
    assert again["mlflow"]["model_version"] == before["mlflow"]["model_version"]
    assert again["mlflow"]["aliases"] == before["mlflow"]["aliases"]
    assert again["rollout"]["promoted"] is True


def test_a_registered_model_is_loaded_in_place_of_training(
    finished: tuple[LocalRun, list[str]], shop: Path, tmp_path: Path
) -> None:
    recipe = shop_recipe(shop, train=False, model_uri="models:/shop@champion", target="none")
    summary = run_locally(recipe, tmp_path).summary
    assert summary["model"]["hr_10"] == finished[0].summary["model"]["hr_10"]
    assert summary["mlflow"]["run_id"] != finished[0].summary["mlflow"]["run_id"]
    assert summary["mlflow"]["model_version"] == finished[0].summary["mlflow"]["model_version"]
