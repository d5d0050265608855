"""Saves what a cache has learnt, now and then and at the end."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from genrec_cache.embedding_cache import CachedTable

_log = logging.getLogger(__name__)


class Keeper:
    """A thread that writes a table's snapshot to a file.

    A file that cannot be written is logged; serving goes on.

    Args:
        table: whose snapshot.
        path: of the file, which is replaced as a whole.
        every_s: seconds between snapshots; none is written where nothing was looked up since.
    """

    def __init__(self, table: CachedTable, path: Path, *, every_s: float = 300.0) -> None:
        self._table = table
        self._path = path
        self._every_s = every_s
        self._saved = table.stats.lookups
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cache-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last snapshot, and end the thread."""
        self._end.set()
        self._thread.join()
        self._save()

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self._save()

    def _save(self) -> None:
        lookups = self._table.stats.lookups
        if lookups == self._saved:
            return
        try:
            self._table.save(self._path)
        except OSError as error:
            _log.warning("what the hot cache learnt is not kept in %s: %s", self._path, error)
        else:
            self._saved = lookups
