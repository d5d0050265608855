"""`genrec run`: the pipeline on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from genrec_pipelines.commands.options import (
    ColumnOption,
    ConfigOption,
    DatasetOption,
    LoadOption,
    ModelNameOption,
    PathOption,
    RecipeOption,
    SetOption,
    TargetOption,
    chosen_recipe,
)
from genrec_pipelines.local_pipeline import LocalRun, run_locally
from genrec_pipelines.progress import StepProgress
from genrec_pipelines.recipes import Recipe
from genrec_pipelines.tables import print_summary


def run(
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    dataset: DatasetOption = None,
    path: PathOption = None,
    column: ColumnOption = None,
    changes: SetOption = None,
    model_name: ModelNameOption = None,
    load: LoadOption = None,
    target: TargetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the report; runs/NAME by default.")
    ] = None,
) -> None:
    """Run the whole pipeline here: validate, train, export, register, canary, promote."""
    chosen = chosen_recipe(
        name=recipe,
        config=config,
        dataset=dataset,
        path=path,
        column=column,
        changes=changes,
        model_name=model_name,
        load=load,
        target=target,
    )
    console = Console()
    finished = run_with_progress(chosen, out or Path("runs") / chosen.dataset, console)
    print_summary(console, finished.summary)
    console.print(f"report   {finished.report}")
    console.print(f"summary  {finished.folder / 'summary.json'}")
    if chosen.target == "local" and not finished.summary["rollout"]["promoted"]:
        raise typer.Exit(1)


def run_with_progress(recipe: Recipe, folder: Path, console: Console) -> LocalRun:
    """Run a recipe and show its steps as they come and go."""
    with StepProgress(console) as progress:
        return run_locally(recipe, folder, on_line=progress.line)
