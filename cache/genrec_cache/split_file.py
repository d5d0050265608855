"""The split of memory that the next engine shall have, in a file."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from genrec_cache.memory_split import Split

_log = logging.getLogger(__name__)

_FORMAT = "genrec-memory-split-1"


def save_split(path: Path, split: Split) -> None:
    """Write it; whoever reads the file sees the old one or the new one as a whole.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"format": _FORMAT, **asdict(split)}, file)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_split(path: Path, *, budget: int) -> Split | None:
    """The split of a file; None where there is none, or it is not of this budget.

    Args:
        budget: bytes of both sides.
    """
    try:
        found = json.loads(path.read_text())
        split = Split(kv=int(found["kv"]), rows=int(found["rows"]))
        known = found["format"] == _FORMAT
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("the split of memory in %s cannot be read: %s", path, error)
        return None
    if not known or min(split.kv, split.rows) <= 0 or split.kv + split.rows != budget:
        _log.warning("the split of memory in %s is not of %d bytes and is not used", path, budget)
        return None
    return split
