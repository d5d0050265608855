"""Work that may lag behind: done in order by one thread, left out when it lags too far."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]

_log = logging.getLogger(__name__)


class Background:
    """One thread and a short queue of jobs.

    Args:
        name: of the thread.
        waiting: jobs that may wait; one more is refused.
    """

    def __init__(self, name: str, *, waiting: int) -> None:
        self.skipped = 0
        self.failures = 0
        self._jobs: queue.Queue[Job | None] = queue.Queue(waiting)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def has_room(self) -> bool:
        """Whether a job would be taken; if not, it counts as skipped."""
        if self._jobs.full():
            self.skipped += 1
            return False
        return True

    def offer(self, job: Job) -> None:
        """Take a job, or count it as skipped where too many wait."""
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self.skipped += 1

    def flush(self) -> None:
        """Wait until all jobs that were taken are done."""
        self._jobs.join()

    def close(self) -> None:
        """Do what waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                if job is None:
                    return
                job()
            except Exception:
                # A lookup must not fail because deciding what is hot did.
                self.failures += 1
                _log.exception("a decision of the hot cache failed; the hot set stays as it is")
            finally:
                self._jobs.task_done()
