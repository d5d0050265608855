"""Step: labels, time split and vocabulary."""

from kfp import dsl

from genrec_components.base import component


@component
def make_features(
    data: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    options: str,
    features: dsl.Output[dsl.Dataset],
) -> None:
    """Label, split and index the events; takes the gate's verdict so that it runs after it."""
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.data.stored import read_dataset
    from genrec_model.features.prepare import FeatureOptions, prepare_features
    from genrec_model.files import read_json
    from genrec_model.options import parse_options

    with step("features", features):
        chosen = parse_options(FeatureOptions, options, "features")
        made = prepare_features(read_dataset(Path(data.path)), Path(features.path), chosen)
        features.metadata["digest"] = made.dataset.digest
        features.metadata["validated"] = read_json(Path(validation.path))["success"]
