"""`genrec config`: print a recipe."""

from __future__ import annotations

from typing import Annotated

import typer

from genrec_pipelines.commands.options import (
    ColumnOption,
    ConfigOption,
    DatasetOption,
    PathOption,
    RecipeOption,
    SetOption,
    chosen_recipe,
)
from genrec_pipelines.recipes import RECIPES


def config(
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    dataset: DatasetOption = None,
    path: PathOption = None,
    column: ColumnOption = None,
    changes: SetOption = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="Name the recipes.")] = False,
) -> None:
    """Print a recipe as YAML: save it, edit it, and run it with `genrec run --config`."""
    if list_recipes:
        for name, make in RECIPES.items():
            typer.echo(f"{name:16}{(make.__doc__ or '').splitlines()[0]}")
        return
    chosen = chosen_recipe(
        name=recipe, config=config, dataset=dataset, path=path, column=column, changes=changes
    )
    typer.echo(chosen.to_yaml(), nl=False)
