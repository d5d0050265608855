"""Options that several subcommands share: how a recipe is chosen and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from genrec_model.errors import ConfigError
from genrec_pipelines.recipes import Recipe, recipe

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="Named recipe; `genrec config --list` names them.")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Recipe file, as `genrec config` prints it.")
]
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", help="Data set; its own recipe is used.")
]
PathOption = Annotated[
    str | None, typer.Option("--path", help="Files of the data set: a file, folder or zip.")
]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", help="For --dataset columns: user=uid, item=sku, timestamp=ts, ..."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change the recipe, for example training.epochs=20."),
]
ModelNameOption = Annotated[
    str | None, typer.Option("--model-name", help="Name in the model registry.")
]
LoadOption = Annotated[
    str | None,
    typer.Option("--load", help="Take this registered model (models:/NAME@ALIAS), do not train."),
]
TargetOption = Annotated[
    str | None, typer.Option("--target", help="Where to roll out: local, kserve or none.")
]


def chosen_recipe(
    *,
    name: str | None,
    config: Path | None,
    dataset: str | None,
    path: str | None = None,
    column: list[str] | None = None,
    changes: list[str] | None = None,
    model_name: str | None = None,
    load: str | None = None,
    target: str | None = None,
) -> Recipe:
    """The recipe that the options ask for.

    Raises:
        ConfigError: none or several are asked for, or a value is wrong.
    """
    sources = [source for source in (name, config, dataset) if source is not None]
    if len(sources) != 1:
        raise ConfigError("give one of --dataset, --recipe and --config")
    base = Recipe.from_file(config) if config is not None else recipe(name or str(dataset))
    settings: dict[str, Any] = {}
    for option, value in (("path", path), ("model_name", model_name), ("target", target)):
        if value is not None:
            settings[option] = value
    if column:
        settings["columns"] = tuple(column)
    if load is not None:
        settings |= {"train": False, "model_uri": load}
    for change in changes or []:
        option, equals, text = change.partition("=")
        if not equals:
            raise ConfigError(f"--set {change}: write NAME=VALUE")
        settings[option] = yaml.safe_load(text)
    return base.changed(settings)
