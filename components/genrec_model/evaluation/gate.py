"""The quality gate: whether a model is good enough to be exported and offered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genrec_model.errors import ConfigError, GateFailed


@dataclass(frozen=True, kw_only=True)
class QualityGate:
    """What a model must reach.

    Args:
        min_lift: least ratio of HR@10 to that of popularity.
        max_champion_drop: largest relative fall of NDCG@10 below the champion's, on the same
            targets.
        min_task_auc: least AUC of each task that has one.
    """

    min_lift: float = 1.0
    max_champion_drop: float = 0.05
    min_task_auc: float = 0.5

    def __post_init__(self) -> None:
        if self.min_lift < 0 or not 0 <= self.max_champion_drop <= 1:
            raise ConfigError("gate: min_lift must be at least 0, max_champion_drop in [0, 1]")

    def judge(
        self, retrieval: Mapping[str, Mapping[str, float]], tasks: Mapping[str, Mapping[str, Any]]
    ) -> list[str]:
        """Reasons against the model; none means that it passes."""
        reasons = []
        own, popular = retrieval["hstu"], retrieval["popularity"]
        needed = self.min_lift * popular["hr_10"]
        if own["hr_10"] < needed:
            reasons.append(
                f"HR@10 is {own['hr_10']:.4f}, below {self.min_lift:g} x popularity's "
                f"{popular['hr_10']:.4f}"
            )
        if "champion" in retrieval:
            champion = retrieval["champion"]["ndcg_10"]
            if own["ndcg_10"] < (1 - self.max_champion_drop) * champion:
                reasons.append(
                    f"NDCG@10 is {own['ndcg_10']:.4f}, more than {self.max_champion_drop:.0%} "
                    f"below the champion's {champion:.4f}"
                )
        for name, metrics in tasks.items():
            auc = metrics.get("auc")
            if auc is not None and auc < self.min_task_auc:
                reasons.append(f"AUC of {name} is {auc:.4f}, below {self.min_task_auc:g}")
        return reasons


def require_passed(gate: Mapping[str, Any]) -> None:
    """Raise `GateFailed` with the reasons that an evaluation recorded."""
    if not gate["passed"]:
        raise GateFailed("the model does not pass the quality gate: " + "; ".join(gate["reasons"]))
