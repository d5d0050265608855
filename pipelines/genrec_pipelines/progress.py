"""Steps of a running pipeline on the terminal."""

from __future__ import annotations

import re
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status

from genrec_model.progress import LOGGER

#: Log lines of a step that are worth a look while it runs.
_TELLING = re.compile(r"(?P<logger>genrec_\w+(?:\.\w+)*): (?P<message>.+)$")


class StepProgress:
    """Shows the step that runs and the latest word of its log, and a line for each that is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._step = ""
        self._started = 0.0

    def __enter__(self) -> StepProgress:
        self._status = self._console.status("starting the pipeline")
        self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()
        self._finish("✗" if error is not None else "✓")

    def line(self, step: str, text: str) -> None:
        """Take a line of the log, and the step that printed it."""
        if step and step != self._step:
            self._finish("✓")
            self._step, self._started = step, time.perf_counter()
            self._show(step)
        match = _TELLING.search(text)
        if match is not None:
            self._show(f"{self._step}: {match['message']}")
            passing = match["logger"] == LOGGER
            if not passing and not self._console.is_terminal:
                self._console.print(f"    {match['message']}", highlight=False, markup=False)

    def _show(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text.replace("[", r"\["))

    def _finish(self, mark: str) -> None:
        if self._step:
            seconds = time.perf_counter() - self._started
            self._console.print(f"  {mark} {self._step:16}{seconds:6.1f} s", highlight=False)
        self._step = ""
