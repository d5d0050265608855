"""A rollout on a cluster: the registry's wish, applied as a KServe InferenceService."""

from __future__ import annotations

from typing import Any

from genrec_model.settings import settings
from genrec_serving.rollout.kserve import KServeTarget
from genrec_serving.rollout.machine import begin
from genrec_serving.rollout.plan import RolloutPlan
from genrec_serving.rollout.reconciler import Reconciler
from genrec_serving.rollout.registry_state import RolloutRegistry


def deploy_kserve(registry: RolloutRegistry, version: str, plan: RolloutPlan) -> dict[str, Any]:
    """Put a version on the plan's first step, and the cluster to what the registry then says.

    Later steps are moved, promoted or rolled back by whoever watches the canary, with
    `genrec rollout`, `genrec promote` and `genrec rollback`.

    Args:
        registry: names champion and challenger.
        version: the challenger, or the champion, which is then only applied.
        plan: its first step is the canary's share. A first version gets everything.

    Returns:
        ``steps`` (none is judged yet), ``promoted``, ``reason`` and the ``changes`` made.

    Raises:
        ConfigError: see `Reconciler.reconcile`.
    """
    promoted = registry.champion() == version
    if promoted:
        reason = f"version {version} is the champion already"
    else:
        if registry.champion() is None:
            plan = plan.at_once()
        state = begin(registry.state(version), plan)
        registry.save(version, state)
        reason = f"version {version} is the canary at {state.percent} %, not judged yet"
    changes = Reconciler(registry, kserve_target()).reconcile()
    return {
        "steps": [],
        "promoted": promoted,
        "reason": reason,
        "changes": [f"{change.kind} {change.name}: {change.action}" for change in changes],
    }


def kserve_target() -> KServeTarget:
    """Where the settings say that models are deployed."""
    values = settings()
    return KServeTarget(
        namespace=values.kserve_namespace,
        mode=values.kserve_mode,
        image=values.image,
        name=values.kserve_service,
        gpus=values.kserve_gpus,
    )
