"""The export step: ONNX files in the artifact, and the parity gate."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from genrec_model.artifact import Artifact
from genrec_model.export.onnx_export import export_onnx
from genrec_model.export.parity import measure_parity, parity_users

#: Largest difference between ONNX Runtime and plain PyTorch, fp32, any output.
TOLERANCE = 1e-4

#: Files in the artifact's ``onnx`` folder: attention as one operator with a body, and as standard
#: operators only.
WITH_OPERATOR, PLAIN = "model.onnx", "plain.onnx"


def export_artifact(artifact: Artifact, *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Export both graphs, compare them with plain PyTorch in ONNX Runtime, record the parity.

    Returns:
        What ``onnx/parity.json`` holds: for each file its parity, and the tolerance.

    Raises:
        GateFailed: a graph differs by more than `tolerance`.
    """
    # Imported here: engines depend on export, and only this step needs the other direction.
    from genrec_model.engines.onnxruntime_engine import load_onnx

    model, users = artifact.load_model(), parity_users(artifact)
    report: dict[str, Any] = {"tolerance": tolerance, "files": {}}
    for name in (WITH_OPERATOR, PLAIN):
        path: Path = artifact.path / "onnx" / name
        export_onnx(model, path, plain=name == PLAIN)
        parity = measure_parity(artifact, users, load_onnx(path))
        parity.require(f"onnx/{name} in ONNX Runtime", absolute=tolerance)
        report["files"][name] = asdict(parity)
    report["max_abs_error"] = max(f["max_abs_error"] for f in report["files"].values())
    artifact.write("onnx/parity.json", report)
    return report
