"""The pipeline on this machine, through kfp.local: started as a process of its own.

`run_locally` starts it, follows its log, and turns a failed step into one clear error.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_model.errors import GenrecError, UserError
from genrec_model.files import read_json, write_json
from genrec_model.settings import settings
from genrec_pipelines.cache_key import cache_key
from genrec_pipelines.recipes import Recipe

_TASK = re.compile(r"(?P<verb>Executing task|Task) .*?'(?P<name>[\w-]+)'")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

#: Called with the name of a step that starts, and with each line that it logs.
OnLine = Callable[[str, str], None]


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """What a run left in its folder: its summary, its report and the whole log."""

    folder: Path
    summary: dict[str, Any]

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"


def run_locally(recipe: Recipe, folder: Path, *, on_line: OnLine | None = None) -> LocalRun:
    """Run a recipe on this machine.

    Steps with the same inputs as in an earlier run are taken from the cache under the settings'
    ``home``, so a run that was killed goes on where it was.

    Args:
        recipe: what to run.
        folder: gets ``summary.json``, ``report.html``, ``validation.html``, ``events.parquet``
            (for servers that are to know the users) and ``pipeline.log``; what is there from an
            earlier run stays until the new run has succeeded.
        on_line: see `OnLine`.

    Raises:
        UserError: a step refused something that the user can mend; its own words.
        GenrecError: a step failed otherwise; names the log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    home = settings().home.absolute()
    work = home / "kfp"
    work.mkdir(parents=True, exist_ok=True)
    key = cache_key(_source(recipe))
    error_file, outputs_file = work / f"error-{os.getpid()}.json", work / f"out-{os.getpid()}.json"
    request = work / f"request-{os.getpid()}.json"
    log = folder / "pipeline.log"
    started = time.perf_counter()
    try:
        write_json(
            request,
            {
                "arguments": {**recipe.arguments(), "cache_key": key},
                "root": str(work),
                "outputs": str(outputs_file),
            },
        )
        code = _follow(request, log, error_file, home, on_line)
        if code != 0:
            _raise(error_file, log, folder)
        outputs = read_json(outputs_file)
        summary = read_json(Path(outputs["summary"]))
        summary["seconds"]["total"] = round(time.perf_counter() - started, 2)
        shutil.copyfile(outputs["report"], folder / "report.html")
        shutil.copyfile(summary["validation"]["report"], folder / "validation.html")
        summary["validation"]["report"] = str(folder / "validation.html")
        shutil.copyfile(summary["dataset"]["path"], folder / "events.parquet")
        summary["dataset"]["path"] = str(folder / "events.parquet")
        write_json(folder / "summary.json", summary)
    finally:
        for file in (error_file, outputs_file, request):
            file.unlink(missing_ok=True)
    return LocalRun(folder=folder, summary=summary)


def _source(recipe: Recipe) -> Path | None:
    if recipe.path:
        return Path(recipe.path)
    return settings().data_dir / "ml-100k" if recipe.dataset == "movielens-100k" else None


def _follow(request: Path, log: Path, error_file: Path, home: Path, on_line: OnLine | None) -> int:
    """Run the pipeline process, copy what it prints to the log, and report its steps."""
    environment = {
        # Threads that wait by spinning slow each other down fivefold where cores are shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "GENREC_HOME": str(home),
        "GENREC_DATA_DIR": str(settings().data_dir.absolute()),
        "GENREC_ERROR_FILE": str(error_file),
    }
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "genrec_pipelines.local_pipeline",
        str(request),
    ]
    with (
        log.open("w", buffering=1) as sink,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that its steps and servers can be ended with it
        ) as process,
    ):
        assert process.stdout is not None
        step = ""
        try:
            for raw in process.stdout:
                line = _COLOUR.sub("", raw.rstrip())
                sink.write(line + "\n")
                match = _TASK.search(line)
                if match is not None:
                    step = match["name"] if match["verb"] == "Executing task" else ""
                if on_line is not None:
                    on_line(step, line.strip())
        except BaseException:  # Ctrl-C, most of all
            os.killpg(process.pid, signal.SIGTERM)
            raise
    return process.returncode


def _raise(error_file: Path, log: Path, folder: Path) -> None:
    page = error_file.with_name("validation.html")
    if page.is_file():
        page.replace(folder / "validation.html")
    if error_file.is_file():
        error = read_json(error_file)
        kind = UserError if error["mendable"] else GenrecError
        raise kind(f"step {error['step']}: {error['message']}")
    lines = [line.strip() for line in log.read_text().splitlines() if line.strip()]
    last = next(
        (line for line in reversed(lines) if re.match(r"^[\w.]*(Error|Exception)", line)),
        lines[-1] if lines else "nothing was printed",
    )
    raise GenrecError(f"the pipeline failed: {last}; the whole log is {log}")


def main(request: Path) -> None:
    """Entry point of the process that `run_locally` starts."""
    from kfp import local

    from genrec_pipelines.recommender_pipeline import build_pipeline

    asked = json.loads(request.read_text())
    root = Path(asked["root"])
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(root / "outputs"),
        enable_caching=True,
        cache_root=str(root / "cache"),
        raise_on_error=True,
    )
    run = build_pipeline()(**asked["arguments"])
    write_json(
        Path(asked["outputs"]), {name: artifact.path for name, artifact in run.outputs.items()}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
