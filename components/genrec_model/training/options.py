"""How a model is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genrec_model.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a model is trained.

    Args:
        epochs: passes over the training period.
        batch_rows: history rows of a batch, about.
        learning_rate: peak of AdamW's rate; it warms up over the first tenth, then falls as a
            cosine.
        weight_decay: of AdamW.
        num_negatives: sampled negatives a batch; 0 takes the softmax over the whole catalogue.
        task_weight: weight of the tasks' loss beside the next-item loss.
        task_candidates: candidate rows of a window for which the tasks are learnt.
        validation_targets: events of the validation period on which each epoch is measured.
        seed: of weights, order, dropout and sampling.
    """

    epochs: int = 12
    batch_rows: int = 4096
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    num_negatives: int = 0
    task_weight: float = 1.0
    task_candidates: int = 32
    validation_targets: int = 2000
    seed: int = 7

    def __post_init__(self) -> None:
        at_least = {"epochs": 1, "batch_rows": 1, "num_negatives": 0, "task_candidates": 0}
        for name, least in {**at_least, "validation_targets": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; at least {least}")
        if not self.learning_rate > 0:
            raise ConfigError(f"training.learning_rate is {self.learning_rate}; it must be above 0")

    def to_dict(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)
