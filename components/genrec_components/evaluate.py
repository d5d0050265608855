"""Step: measure the model, and the quality gate."""

from kfp import dsl

from genrec_components.base import component


@component
def evaluate(
    features: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    model_name: str,
    champion: str,
    options: str,
    evaluated: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Compare with popularity and the champion on the test period; fail below the gate."""
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.artifact import Artifact
    from genrec_model.evaluation.evaluate import EvaluationOptions
    from genrec_model.evaluation.evaluate import evaluate as measure
    from genrec_model.evaluation.gate import require_passed
    from genrec_model.features.prepare import Features
    from genrec_model.files import write_json
    from genrec_model.options import parse_options
    from genrec_model.registry.models import download_artifact
    from genrec_model.settings import settings

    with step("evaluate", evaluated):
        current = None
        if champion:
            found = download_artifact(
                f"models:/{model_name}/{champion}", settings().home / "models"
            )
            current = Artifact(found.path)
        artifact = Artifact(Path(model.path)).copy_to(Path(evaluated.path))
        result = measure(
            artifact,
            Features.load(Path(features.path)),
            champion=current,
            options=parse_options(EvaluationOptions, options, "evaluation"),
        )
        for name, value in result["retrieval"]["hstu"].items():
            metrics.log_metric(name, value)
        write_json(Path(metrics.path), result["retrieval"])
        require_passed(result["gate"])
