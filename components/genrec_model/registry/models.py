"""Registered models: versions, aliases and the artifacts behind them.

The alias ``champion`` names the version that is served to everybody, ``challenger`` the one that
wants to be. Nothing else holds that state.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_model.artifact import Artifact
from genrec_model.errors import RegistryError
from genrec_model.files import replacing
from genrec_model.registry.tracking import active_run, client, flatten, git_commit

CHAMPION, CHALLENGER = "champion", "challenger"
#: Folder of the artifact inside a logged MLflow model.
BUNDLE = "artifacts/bundle"
#: Tag of a version: see `Artifact.identity`.
DIGEST_TAG = "artifact_identity"

_URI = re.compile(r"^models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))$")


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A registered version on this machine's disk.

    path: its artifact folder.
    name, version: in the registry.
    """

    path: Path
    name: str
    version: str


def register(artifact: Artifact, *, run_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Offer an artifact as the challenger.

    The first time, it is logged as one MLflow model of its run and registered. A model that is
    registered already is not registered again; its version becomes the challenger, unless it is
    the champion.

    Args:
        artifact: complete: evaluated, exported, with its engines.
        run_id: the run that made it.
        name: registered model.
        tags: lineage of a new version, beside its digests and the commit.

    Returns:
        The version.
    """
    digest = artifact.identity()
    version = find_version(name, DIGEST_TAG, digest)
    if version is None:
        version = _register_new(artifact, run_id, name)
        lineage = {
            DIGEST_TAG: digest,
            "data_digest": artifact.dataset.digest,
            "git_commit": git_commit(),
            "run_id": run_id,
        }
        tag_version(name, version, {**lineage, **tags})
    if version_of(name, CHAMPION) != version:
        set_alias(name, CHALLENGER, version)
    return version


def _register_new(artifact: Artifact, run_id: str, name: str) -> str:
    client()
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    metrics = artifact.metrics
    signature = ModelSignature(
        inputs=Schema(
            [
                ColSpec(DataType.string, "history"),
                ColSpec(DataType.long, "now"),
                ColSpec(DataType.long, "k"),
            ]
        ),
        outputs=Schema([ColSpec(DataType.string, "recommendations")]),
    )
    with active_run(run_id), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice on type hints and input examples
        mlflow.log_metrics(flatten(metrics["retrieval"], "test."))
        mlflow.log_metrics(flatten(metrics["tasks"], "test."))
        # MLflow keeps an artifact under the name of its folder: give it one that is known.
        bundle = Path(folder) / "bundle"
        shutil.copytree(artifact.path, bundle)
        info = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"bundle": str(bundle)},
            signature=signature,
            pip_requirements=["genrec"],
            registered_model_name=name,
            await_registration_for=60,
        )
    return str(info.registered_model_version)


def find_version(name: str, tag: str, value: str) -> str | None:
    """The newest version with a tag, or None."""
    found = client().search_model_versions(f"name = '{name}' and tag.`{tag}` = '{value}'")
    return max((str(version.version) for version in found), key=int, default=None)


def log_dataset(run_id: str, artifact: Artifact) -> None:
    """Log the data set as the run's input, by its digest; the data itself is not copied."""
    client()
    import mlflow
    from mlflow.data.http_dataset_source import HTTPDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    dataset = artifact.dataset
    source = HTTPDatasetSource(url=f"urn:genrec:{dataset.spec.name}")
    # MLflow takes digests of at most 36 characters.
    meta = MetaDataset(source, name=dataset.spec.name, digest=dataset.digest.split(":")[1][:36])
    with active_run(run_id):
        mlflow.log_input(meta, context="training")


def version_of(name: str, alias: str) -> str | None:
    """Version that an alias names, or None."""
    return aliases(name).get(alias)


def aliases(name: str) -> dict[str, str]:
    """All aliases of a registered model, with their versions; none if it does not exist."""
    from mlflow.exceptions import MlflowException

    tracker = client()
    try:
        found = tracker.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise RegistryError(f"MLflow does not tell about model {name!r}: {error}") from error
    return {alias: str(version) for alias, version in found.items()}


def set_alias(name: str, alias: str, version: str) -> None:
    """Let an alias name a version.

    Raises:
        RegistryError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        client().set_registered_model_alias(name, alias, version)
    except MlflowException as error:
        raise RegistryError(f"no version {version} of model {name!r}: {error.message}") from error


def delete_alias(name: str, alias: str) -> None:
    """Remove an alias; nothing happens where there is none."""
    if version_of(name, alias) is not None:
        client().delete_registered_model_alias(name, alias)


def tag_version(name: str, version: str, tags: Mapping[str, Any]) -> None:
    """Set tags of a version."""
    tracker = client()
    for key, value in tags.items():
        tracker.set_model_version_tag(name, version, key, str(value))


def version_tags(name: str, version: str) -> dict[str, str]:
    """Tags of a version.

    Raises:
        RegistryError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return dict(client().get_model_version(name, version).tags)
    except MlflowException as error:
        raise RegistryError(f"no version {version} of model {name!r}: {error.message}") from error


def resolve(uri: str) -> tuple[str, str]:
    """Name and version of ``models:/name@alias`` or ``models:/name/version``.

    Raises:
        RegistryError: the URI is of another form, or the registry lacks what it names.
    """
    match = _URI.match(uri)
    if match is None:
        raise RegistryError(f"{uri!r}: write models:/NAME@ALIAS or models:/NAME/VERSION")
    name = match["name"]
    if match["version"]:
        version_tags(name, match["version"])
        return name, match["version"]
    version = version_of(name, match["alias"])
    if version is None:
        known = ", ".join(f"{a} (version {v})" for a, v in aliases(name).items()) or "no alias"
        raise RegistryError(
            f"model {name!r} has no alias {match['alias']!r}; the registry has {known}"
        )
    return name, version


def storage_uri(name: str, version: str) -> str:
    """Where the artifact of a version is stored, as a URI that KServe's initializer can read."""
    return f"{client().get_model_version_download_uri(name, version)}/{BUNDLE}"


def download_artifact(uri: str, destination: Path) -> ResolvedModel:
    """Bring a registered version's artifact to this machine.

    Args:
        uri: ``models:/name@alias`` or ``models:/name/version``.
        destination: folder under which it is put, by name and version; what is there already is
            used again, as a version never changes.

    Raises:
        RegistryError: see `resolve`.
    """
    name, version = resolve(uri)
    folder = destination / name / version
    if not (folder / "config.json").is_file():
        import mlflow

        with replacing(folder) as temporary:
            temporary.mkdir()
            found = mlflow.artifacts.download_artifacts(
                f"models:/{name}/{version}", dst_path=str(temporary / "model")
            )
            bundle = Path(found) / BUNDLE
            for entry in bundle.iterdir():
                shutil.move(str(entry), temporary / entry.name)
            shutil.rmtree(temporary / "model")
    return ResolvedModel(path=folder, name=name, version=version)


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """One version in the registry: its number, the aliases that name it, and its tags."""

    version: str
    aliases: tuple[str, ...]
    tags: dict[str, str]


def list_versions(name: str) -> list[RegisteredVersion]:
    """All versions of a registered model, the newest first; none if it does not exist."""
    named = aliases(name)
    found = client().search_model_versions(f"name = '{name}'")
    return [
        RegisteredVersion(
            version=str(entry.version),
            aliases=tuple(alias for alias, v in named.items() if v == str(entry.version)),
            tags=dict(entry.tags),
        )
        for entry in sorted(found, key=lambda entry: int(entry.version), reverse=True)
    ]
