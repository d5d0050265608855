"""`genrec promote`, `genrec rollback` and `genrec versions`: the registry by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from genrec_model.errors import RegistryError
from genrec_model.registry.models import CHALLENGER, list_versions, version_of
from genrec_serving.rollout.registry_state import MlflowRegistry

NameOption = Annotated[str, typer.Option("--model-name", help="Name in the model registry.")]


def promote(
    model_name: NameOption = "hstu",
    version: Annotated[
        str | None, typer.Option("--version", help="Version; the challenger by default.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; kept as a tag.")] = "promoted by hand",
) -> None:
    """Make a version the champion at once, without a canary."""
    chosen = version or version_of(model_name, CHALLENGER)
    if chosen is None:
        raise RegistryError(f"model {model_name!r} has no challenger; give --version")
    registry = MlflowRegistry(model_name)
    registry.set_alias(CHALLENGER, chosen)
    state = registry.state(chosen)
    registry.save(chosen, replace(state, phase="promoted", percent=100, reason=reason))
    typer.echo(f"{model_name} version {chosen} is the champion")


def rollback(
    model_name: NameOption = "hstu",
    reason: Annotated[str, typer.Option(help="Why; kept as a tag.")] = "rolled back by hand",
) -> None:
    """End a running canary, or put the champion before this one back."""
    registry = MlflowRegistry(model_name)
    challenger = version_of(model_name, CHALLENGER)
    if challenger is not None:
        state = registry.state(challenger)
        registry.save(challenger, replace(state, phase="rolled_back", percent=0, reason=reason))
        typer.echo(f"{model_name} version {challenger} is no longer the challenger")
        return
    typer.echo(f"{model_name} version {registry.rollback_champion(reason)} is the champion again")


def versions(model_name: NameOption = "hstu") -> None:
    """List the registered versions, their aliases and how their rollouts ended."""
    table = Table("version", "aliases", "rollout", "reason", "data", "commit")
    for entry in list_versions(model_name):
        tags = entry.tags
        table.add_row(
            entry.version,
            ", ".join(entry.aliases),
            tags.get("rollout_state", ""),
            tags.get("rollout_reason", "").split(";")[0],
            tags.get("data_digest", "")[:19],
            tags.get("git_commit", "")[:9],
        )
    if not table.row_count:
        raise RegistryError(f"model {model_name!r} is not registered; `genrec run` registers it")
    Console().print(table)
