"""A folder or a zip file, read the same way: data sets are handed around as either."""

from __future__ import annotations

import zipfile
from functools import cached_property
from pathlib import Path, PurePosixPath

from genrec_model.errors import DataError


class Bundle:
    """Files of a folder or of a zip, found by name at any depth up to ``MAX_DEPTH``.

    Raises:
        DataError: the path is neither a folder nor a readable zip file.
    """

    MAX_DEPTH = 2

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise DataError(f"{path}: no such folder or file: check the path")
        if path.is_file() and not zipfile.is_zipfile(path):
            raise DataError(f"{path}: neither a folder nor a zip file: unpack it or fetch it again")
        self.path = path

    @cached_property
    def _members(self) -> tuple[str, ...]:
        if self.path.is_dir():
            patterns = ("/".join("*" * depth) for depth in range(1, self.MAX_DEPTH + 1))
            found = (file for pattern in patterns for file in self.path.glob(pattern))
            names = [file.relative_to(self.path).as_posix() for file in found if file.is_file()]
        else:
            with zipfile.ZipFile(self.path) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
        # The shallowest file wins: archives carry copies of themselves in odd places.
        return tuple(sorted(names, key=lambda name: (name.count("/"), name)))

    def find(self, *names: str) -> str | None:
        """Member whose file name is the first of ``names`` that there is."""
        for wanted in names:
            for member in self._members:
                if PurePosixPath(member).name == wanted:
                    return member
        return None

    def glob(self, pattern: str) -> tuple[str, ...]:
        """Members whose file name matches ``pattern``."""
        return tuple(m for m in self._members if PurePosixPath(m).match(pattern))

    def read(self, member: str) -> bytes:
        """Content of a member.

        Raises:
            DataError: it cannot be read.
        """
        try:
            if self.path.is_dir():
                return (self.path / member).read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(member)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(
                f"{self.path}: {member} cannot be read ({error}): fetch the file again"
            ) from error

    def label(self, member: str) -> str:
        """How an error calls a member."""
        return f"{self.path}/{member}"
