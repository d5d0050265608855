"""Step: train a model, or take a registered one."""

from kfp import dsl

from genrec_components.base import component


@component
def train_or_load(
    features: dsl.Input[dsl.Dataset],
    train_model: bool,
    model_uri: str,
    model_name: str,
    model_options: str,
    training_options: str,
    model: dsl.Output[dsl.Model],
) -> str:
    """Leave a model, and return the id of the MLflow run that it belongs to.

    Training logs each epoch to a new run; when it is killed, it leaves a checkpoint under the
    settings' ``home`` and is continued from there. Loading brings `model_uri` from the registry.

    One step, not two branches: `kfp.local` cannot join artifacts of branches (`dsl.OneOf`).
    """
    from pathlib import Path

    from genrec_components.base import step
    from genrec_model.features.prepare import Features
    from genrec_model.options import parse_object, parse_options
    from genrec_model.registry.load import load_registered
    from genrec_model.training.options import TrainingOptions
    from genrec_model.training.run import train_artifact

    with step("train", model):
        made = Features.load(Path(features.path))
        if train_model:
            trained = train_artifact(
                made,
                Path(model.path),
                model_name=model_name,
                model_options=parse_object(model_options, "model"),
                options=parse_options(TrainingOptions, training_options, "training"),
            )
            model.metadata["epochs"] = trained.epochs
            run_id = trained.run_id
        else:
            run_id = load_registered(model_uri, Path(model.path), data_digest=made.dataset.digest)
            model.metadata["loaded"] = model_uri
    return run_id
