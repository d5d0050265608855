"""``summary.json``: the run in figures, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genrec_model.artifact import Artifact
from genrec_model.engines.build import engine_records


def summarise(
    artifact: Artifact,
    *,
    validation: Mapping[str, Any],
    validation_report: str,
    events: str,
    rollout: Mapping[str, Any],
    run_id: str,
    model_name: str,
    version: str,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Figures of a run.

    Args:
        artifact: complete.
        validation: the data gate's verdict.
        validation_report: path of its page.
        events: path of the event table.
        rollout: what the roll-out step left.
        run_id, model_name, version: in MLflow.
        seconds: duration of each step; a cached step keeps that of its own run.
    """
    metrics, dataset = artifact.metrics, artifact.dataset
    retrieval = metrics["retrieval"]
    tasks = {
        name: {key: value for key, value in task.items() if key != "bins"}
        for name, task in metrics["tasks"].items()
    }
    return {
        "dataset": {
            "name": dataset.spec.name,
            "events": dataset.num_events,
            "users": dataset.num_users,
            "items": int(validation["statistics"]["items"]),
            "digest": dataset.digest,
            "path": events,
        },
        "validation": {"success": validation["success"], "report": validation_report},
        "model": {
            "hr_10": retrieval["hstu"]["hr_10"],
            "ndcg_10": retrieval["hstu"]["ndcg_10"],
            "popularity_hr_10": retrieval["popularity"]["hr_10"],
            "champion_hr_10": retrieval.get("champion", {}).get("hr_10"),
            "parameters": artifact.training.get("parameters"),
            "tasks": tasks,
            "unlabelled": metrics["unlabelled"],
        },
        "onnx": {
            "path": str(artifact.path / "onnx" / "model.onnx"),
            "max_abs_error": artifact.parity["max_abs_error"],
        },
        "engines": [
            {
                "backend": record.backend,
                "precision": record.precision,
                "bytes": record.bytes,
                "executed": record.executed,
                "max_abs_error": record.max_abs_error,
                "graph_max_abs_error": record.graph_max_abs_error,
            }
            for record in engine_records(artifact)
        ],
        "mlflow": {
            "run_id": run_id,
            "model_name": model_name,
            "model_version": version,
            "aliases": rollout["aliases"],
        },
        "endpoint": rollout["endpoint"],
        "rollout": rollout["rollout"],
        "recommendations": rollout["recommendations"],
        "seconds": dict(seconds),
    }
