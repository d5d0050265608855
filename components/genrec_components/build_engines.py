"""Step: inference engines, TensorRT's among them."""

from kfp import dsl

from genrec_components.base import component


@component
def build_engines(
    model: dsl.Input[dsl.Model], engines: list[str], built: dsl.Output[dsl.Model]
) -> None:
    """Build the engines named, for example ``tensorrt-rtx-fp16``, and record each."""
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.artifact import Artifact
    from genrec_model.engines.build import build_engines as build

    with step("build_engines", built):
        artifact = Artifact(Path(model.path)).copy_to(Path(built.path))
        records = build(artifact, engines)
        built.metadata["engines"] = [f"{r.backend}-{r.precision}" for r in records]
