"""`genrec rollout`: a cluster's canary, moved and applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from genrec_model.errors import RegistryError
from genrec_serving.rollout.deploy_kserve import kserve_target
from genrec_serving.rollout.machine import RolloutState
from genrec_serving.rollout.reconciler import Reconciler
from genrec_serving.rollout.registry_state import MlflowRegistry


def rollout(
    model_name: Annotated[
        str, typer.Option("--model-name", help="Name in the model registry.")
    ] = "hstu",
    percent: Annotated[
        int | None, typer.Option(min=0, max=100, help="New share of the challenger, in percent.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")] = False,
    kubeconfig: Annotated[Path | None, typer.Option(help="Another kubeconfig.")] = None,
) -> None:
    """Bring the KServe InferenceService to what the registry's aliases and tags say.

    Repeat it as often as you like: what is right already is left alone. With --percent the
    challenger's share changes first.
    """
    registry = MlflowRegistry(model_name)
    registry.finish_interrupted()
    if percent is not None and not dry_run:
        challenger = registry.challenger()
        if challenger is None:
            raise RegistryError(f"model {model_name!r} has no challenger whose share could change")
        state = registry.state(challenger)
        base = state if state.phase == "canary" else RolloutState(phase="canary")
        registry.save(challenger, replace(base, percent=percent))
    for change in Reconciler(registry, kserve_target(), kubeconfig=kubeconfig).reconcile(
        dry_run=dry_run
    ):
        typer.echo(f"{change.kind} {change.name}: {change.action}")
        for line in change.diff:
            typer.echo(f"  {line}")
