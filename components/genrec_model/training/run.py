"""One training as an MLflow run that leaves an artifact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError
from genrec_model.features.prepare import Features
from genrec_model.hstu import HSTUConfig
from genrec_model.registry.models import log_dataset
from genrec_model.registry.tracking import git_commit, log_epoch, log_params, start_run
from genrec_model.settings import settings
from genrec_model.training.checkpoint import fingerprint
from genrec_model.training.options import TrainingOptions
from genrec_model.training.train import train


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a training leaves: its MLflow run, its artifact and the number of its epochs."""

    run_id: str
    artifact: Artifact
    epochs: int


def model_config(features: Features, options: Mapping[str, Any]) -> HSTUConfig:
    """Shape of a model for these features.

    Raises:
        ConfigError: an option is unknown, or follows from the data.
    """
    follows: dict[str, Any] = {
        "num_items": features.vocabulary.num_items,
        "num_actions": features.vocabulary.num_actions,
        "tasks": features.tasks,
    }
    for name in options:
        if name in follows or name not in HSTUConfig.__dataclass_fields__:
            raise ConfigError(f"model.{name}: unknown, or it follows from the data; leave it out")
    return HSTUConfig(**follows, **options)


def train_artifact(
    features: Features,
    path: Path,
    *,
    model_name: str,
    model_options: Mapping[str, Any],
    options: TrainingOptions,
) -> TrainedModel:
    """Train, log to MLflow and write the artifact to `path`.

    The checkpoint lies under ``home/checkpoints``, named by what is trained, so that the same
    training finds it again after it was killed.
    """
    config = model_config(features, model_options)
    mark = fingerprint(features.dataset.to_dict(), config.to_dict(), options.to_dict())
    checkpoint = settings().home / "checkpoints" / f"{mark[:16]}.pt"
    run_id = start_run(
        f"{model_name}-{features.dataset.spec.name}",
        tags={"git_commit": git_commit(), "data_digest": features.dataset.digest},
    )
    parameters = {f"model.{k}": v for k, v in config.to_dict().items()}
    parameters |= {f"training.{k}": v for k, v in options.to_dict().items()}
    log_params(run_id, parameters)

    started = time.perf_counter()
    model, history = train(
        features,
        config,
        options,
        checkpoint=checkpoint,
        on_epoch=lambda epoch, record: log_epoch(run_id, epoch, record),
    )
    artifact = Artifact.create(
        path,
        model=model,
        vocabulary=features.vocabulary,
        dataset=features.dataset,
        training={
            "options": options.to_dict(),
            "history": history,
            "seconds": time.perf_counter() - started,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
    )
    log_dataset(run_id, artifact)
    checkpoint.unlink(missing_ok=True)
    return TrainedModel(run_id=run_id, artifact=artifact, epochs=len(history))
