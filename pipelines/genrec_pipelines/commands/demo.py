"""`genrec demo`: a first champion, then a better model that must earn its place."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from genrec_model.registry.models import CHAMPION, version_of
from genrec_pipelines.commands.run import run_with_progress
from genrec_pipelines.recipes import recipe
from genrec_pipelines.tables import print_summary


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("runs/demo"),
) -> None:
    """Run everything on MovieLens-100K: two models, the second one through a canary."""
    console = Console()
    started = time.perf_counter()
    first, second = recipe("demo-baseline"), recipe("demo")
    if version_of(first.model_name, CHAMPION) is None:
        console.rule("a first, hasty model becomes the champion", align="left")
        run_with_progress(first, out / "first", console)
    console.rule("a better model as its challenger", align="left")
    finished = run_with_progress(second, out, console)
    print_summary(console, finished.summary)
    console.print(f"\nreport   {finished.report}")
    console.print(f"summary  {finished.folder / 'summary.json'}")
    console.print(f"done in {time.perf_counter() - started:.0f} s", highlight=False)
    if not finished.summary["rollout"]["promoted"]:
        raise typer.Exit(1)
