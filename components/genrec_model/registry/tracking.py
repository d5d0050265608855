"""Runs in MLflow: SQLite and files by default, any MLflow server by its address."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec_model.errors import RegistryError
from genrec_model.settings import settings

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "genrec"


def tracking_uri() -> str:
    """Address of the tracking server: from the settings, or SQLite under ``home``."""
    configured = settings().tracking_uri
    if configured:
        return configured
    home = settings().home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{home}/mlflow.db"


def client() -> MlflowClient:
    """A client of the tracking server.

    Raises:
        RegistryError: the server does not answer.
    """
    # MLflow takes these only from the environment.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.exceptions import MlflowException

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        return mlflow.MlflowClient(uri, uri)
    except MlflowException as error:
        raise RegistryError(f"MLflow at {uri} does not answer: {error}") from error


def start_run(name: str, *, tags: Mapping[str, str], experiment: str = EXPERIMENT) -> str:
    """Id of a new run, or of the run that the environment names (a Kubeflow server may do so)."""
    tracker = client()
    injected = settings().mlflow_run_id
    if injected:
        for key, value in tags.items():
            tracker.set_tag(injected, key, value)
        return injected
    found = tracker.get_experiment_by_name(experiment)
    if found is not None:
        experiment_id = found.experiment_id
    else:
        local = tracking_uri().startswith("sqlite")
        location = str(settings().home.absolute() / "mlartifacts") if local else None
        experiment_id = tracker.create_experiment(experiment, artifact_location=location)
    run = tracker.create_run(experiment_id, run_name=name, tags=dict(tags))
    return str(run.info.run_id)


@contextmanager
def active_run(run_id: str) -> Iterator[Any]:
    """Make a run the current one, for MLflow's fluent calls; it stays open afterwards."""
    client()
    import mlflow

    with mlflow.start_run(run_id=run_id, log_system_metrics=False) as run:
        yield run


def log_params(run_id: str, parameters: Mapping[str, Any]) -> None:
    """Log parameters; a run that was given them before must have been given the same."""
    tracker = client()
    for key, value in parameters.items():
        tracker.log_param(run_id, key, value)


def log_epoch(run_id: str, epoch: int, record: Mapping[str, float]) -> None:
    """Log the record of one training epoch."""
    tracker = client()
    for key, value in record.items():
        tracker.log_metric(run_id, key, value, step=epoch)


def log_files(run_id: str, files: Mapping[str, str]) -> None:
    """Log files as a run's artifacts, under the names given."""
    tracker = client()
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            copy = Path(folder) / name
            shutil.copyfile(path, copy)
            tracker.log_artifact(run_id, str(copy))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers of a nested mapping, under dotted names that MLflow allows."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}".replace(" ", "_").replace("@", "_")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[name] = float(value)
    return flat


def git_commit(folder: Path | None = None) -> str:
    """Commit of the code, or ``unknown`` outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder or Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
