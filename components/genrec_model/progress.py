"""Progress of long work: a bar on a terminal, and sparse lines for whoever follows a log.

A Kubeflow step has no terminal. The lines carry the logger's name `LOGGER`, by which a program
that follows them can draw a bar of its own.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LOGGER = "genrec_model.progress"
logger = logging.getLogger(LOGGER)

#: Seconds between two lines.
INTERVAL_S = 1.0


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress; yields a function that takes the amount done since the last call.

    Args:
        what: for people, for example ``epoch 3/10``.
        total: amount of work, at least 1.
    """
    done, told = 0, time.monotonic()

    def advance_log(amount: int) -> None:
        nonlocal done, told
        done += amount
        if time.monotonic() - told >= INTERVAL_S:
            told = time.monotonic()
            logger.info("%s: %d %%", what, 100 * done // max(total, 1))

    if not sys.stderr.isatty():
        yield advance_log
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)
