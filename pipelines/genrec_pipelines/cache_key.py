"""What cached steps depend on beside their arguments: the source files and the program."""

from __future__ import annotations

import hashlib
from pathlib import Path

import genrec_components
import genrec_kernels
import genrec_model

#: Above this size a file counts by its size and time of change, not by its content.
_HASHED_BYTES = 256 * 1024 * 1024


def cache_key(path: Path | None) -> str:
    """Digest of a data set's files and of the packages that turn them into a model."""
    digest = hashlib.sha256()
    for package in (genrec_components, genrec_kernels, genrec_model):
        folder = Path(str(package.__file__)).parent
        for file in sorted(folder.rglob("*.py")):
            digest.update(file.read_bytes())
    for file in _files(path):
        status = file.stat()
        digest.update(f"{file.name}:{status.st_size};".encode())
        if status.st_size > _HASHED_BYTES:
            digest.update(str(status.st_mtime_ns).encode())
        else:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _files(path: Path | None) -> list[Path]:
    if path is None or not path.exists():
        return []
    return [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
