"""A registered model as the start of a new run, in place of training."""

from __future__ import annotations

from pathlib import Path

from genrec_model.artifact import Artifact
from genrec_model.registry.models import download_artifact
from genrec_model.registry.tracking import git_commit, start_run
from genrec_model.settings import settings

#: Parts of an artifact that a run makes anew.
_MADE_ANEW = ("onnx", "engines", "metrics.json", "golden.json")


def load_registered(uri: str, path: Path, *, data_digest: str) -> str:
    """Bring a registered version to `path`, without what the next steps make.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        path: folder of the artifact.
        data_digest: of the data that it will be measured on.

    Returns:
        Id of a new MLflow run, tagged with where the model comes from.
    """
    found = download_artifact(uri, settings().home / "models")
    Artifact(found.path).copy_to(path, leave_out=_MADE_ANEW)
    return start_run(
        f"{found.name}-loaded",
        tags={
            "loaded_from": f"models:/{found.name}/{found.version}",
            "data_digest": data_digest,
            "git_commit": git_commit(),
        },
    )
