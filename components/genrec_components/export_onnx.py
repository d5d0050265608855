"""Step: ONNX export and its parity gate."""

from kfp import dsl

from genrec_components.base import component


@component
def export_onnx(model: dsl.Input[dsl.Model], exported: dsl.Output[dsl.Model]) -> None:
    """Export both ONNX graphs and compare them with plain PyTorch."""
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.artifact import Artifact
    from genrec_model.export.export_artifact import export_artifact

    with step("export_onnx", exported):
        artifact = Artifact(Path(model.path)).copy_to(Path(exported.path))
        parity = export_artifact(artifact)
        exported.metadata["max_abs_error"] = parity["max_abs_error"]
