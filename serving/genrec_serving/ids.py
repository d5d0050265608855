"""Ids that no other one is equal to, on this machine or another."""

from __future__ import annotations

import itertools
from uuid import uuid4

# Asking the system for random bytes each time is a call of its own.
_PROCESS = uuid4().hex
_COUNT = itertools.count()


def new_id() -> str:
    """A new one; those of one process begin alike. Processes that fork must not both make them."""
    return f"{_PROCESS}-{next(_COUNT):x}"
