"""The deployment of a challenger, wherever it is to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genrec_model.errors import ConfigError
from genrec_model.registry.models import aliases
from genrec_serving.rollout.plan import RolloutPlan
from genrec_serving.rollout.registry_state import MlflowRegistry


def deploy(
    model_name: str,
    version: str,
    *,
    target: str,
    plan: RolloutPlan,
    events: Path,
    log_folder: Path,
) -> dict[str, Any]:
    """Deploy a registered version and walk its rollout as far as the target allows.

    Args:
        model_name, version: the challenger.
        target: ``local``, ``kserve`` or ``none``.
        plan: steps and demands.
        events: event table, so that local servers know their users.
        log_folder: where local servers log.

    Returns:
        ``target``; ``rollout`` with ``steps``, ``promoted`` and ``reason``; ``endpoint``, what
        each surface answered; ``recommendations`` for some users; ``aliases`` afterwards.

    Raises:
        ConfigError: the target is unknown.
    """
    registry = MlflowRegistry(model_name)
    registry.finish_interrupted()
    outcome: dict[str, Any] = {"target": target, "endpoint": {}, "recommendations": []}
    if target == "local":
        from genrec_serving.rollout.deploy_local import deploy_local

        outcome |= deploy_local(registry, version, plan, events, log_folder)
    elif target == "kserve":
        from genrec_serving.rollout.deploy_kserve import deploy_kserve

        outcome["rollout"] = deploy_kserve(registry, version, plan)
    elif target == "none":
        promoted = registry.champion() == version
        what = "the champion already" if promoted else "the challenger"
        reason = f"version {version} is {what}; nothing was deployed (target none)"
        outcome["rollout"] = {"steps": [], "promoted": promoted, "reason": reason}
    else:
        raise ConfigError(f"target {target!r} is unknown: use local, kserve or none")
    outcome["aliases"] = aliases(model_name)
    return outcome
