"""What a cache has learnt, in a file: a server that starts again starts warm.

Counters, model and hot set are kept, rows are not: they come from the table, and a snapshot fits
only the table that it was taken of.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.generic]]

_FORMAT = "genrec-cache-snapshot-1"


class SnapshotUnfit(ValueError):
    """A file that is no snapshot, or one of another table; the message says which."""


def save(path: Path, state: State, *, digest: str) -> None:
    """Write a snapshot; whoever reads the file sees the old one or the new one as a whole.

    Args:
        state: from `HotSetPolicy.state`.
        digest: of the table.
    """
    content: dict[str, Any] = {"format": _FORMAT, "digest": digest, **state}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path, *, digest: str) -> State:
    """Read a snapshot.

    Args:
        digest: of the table that it must be of.

    Raises:
        SnapshotUnfit: it is of another table, or the file is none.
        OSError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        form, of = str(found.pop("format")), str(found.pop("digest"))
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise SnapshotUnfit(f"{path} is no snapshot of a cache ({error})") from error
    if form != _FORMAT:
        raise SnapshotUnfit(f"{path} has the format {form}, this program reads {_FORMAT}")
    if of != digest:
        raise SnapshotUnfit(
            f"{path} was taken of another table ({of[:12]}, not {digest[:12]}): remove it, or warm "
            "the cache from popularity"
        )
    return found
