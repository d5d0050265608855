"""The artifact that a server is told to serve, and its version."""

from __future__ import annotations

import hashlib
from pathlib import Path

from genrec_serving.server_options import ServerOptions

REGISTRY_SCHEME = "models:/"


def resolve(options: ServerOptions) -> tuple[Path, str]:
    """Folder and version of the artifact; one from the registry is downloaded.

    Raises:
        RegistryError: the registry lacks it.
        ArtifactError: it is no artifact.
    """
    from genrec_model.artifact import Artifact

    if options.artifact.startswith(REGISTRY_SCHEME):
        from genrec_model.registry.models import download_artifact
        from genrec_model.settings import settings

        downloads = options.downloads or settings().home / "models"
        model = download_artifact(options.artifact, downloads)
        return model.path, options.model_version or model.version
    path = Artifact(options.artifact).path
    return path, options.model_version or weights_version(path)


def weights_version(artifact: Path) -> str:
    """Version of an artifact that no registry knows: the start of its weights' SHA-256.

    Raises:
        ArtifactError: it has no weights.
    """
    from genrec_model.errors import ArtifactError

    digest = hashlib.sha256()
    try:
        with (artifact / "model.safetensors").open("rb") as weights:
            while block := weights.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"{artifact}/model.safetensors: cannot be read ({error})") from error
    return digest.hexdigest()[:12]
