"""Step: log the bundle to MLflow and register it as the challenger."""

from kfp import dsl

from genrec_components.base import component


@component
def register(model: dsl.Input[dsl.Model], run_id: str, model_name: str, pipeline_run: str) -> str:
    """Register the artifact and return its version.

    The same artifact is never registered twice: its version is offered again instead.
    """
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.artifact import Artifact
    from genrec_model.registry.models import register as register_artifact

    with step("register"):
        return register_artifact(
            Artifact(Path(model.path)),
            run_id=run_id,
            name=model_name,
            tags={"pipeline_run": pipeline_run},
        )
