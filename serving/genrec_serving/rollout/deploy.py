"""The deployment of a challenger, wherever it is to be served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from genrec_model.errors import ConfigError
from genrec_model.registry.models import CHAMPION, aliases, version_of
from genrec_serving.rollout.plan import RolloutPlan


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
    outcome: dict[str, Any] = {"target": target, "endpoint": {}, "recommendations": []}
    if version_of(model_name, CHAMPION) == version:
        reason = f"version {version} is the champion already"
        outcome["rollout"] = {"steps": [], "promoted": True, "reason": reason}
    elif target == "none":
        reason = f"version {version} is the challenger; nothing was deployed (target none)"
        outcome["rollout"] = {"steps": [], "promoted": False, "reason": reason}
    elif target == "local":
        from genrec_serving.rollout.deploy_local import deploy_local

        outcome |= deploy_local(model_name, version, plan, events, log_folder)
    elif target == "kserve":
        from genrec_serving.rollout.deploy_kserve import deploy_kserve

        outcome["rollout"] = deploy_kserve(model_name, version, plan)
    else:
        raise ConfigError(f"target {target!r} is unknown: use local, kserve or none")
    outcome["aliases"] = aliases(model_name)
    return outcome
