"""How a model is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

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
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one. On a GPU attention
            runs in the Triton kernels.
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
    device: str = "auto"

    def __post_init__(self) -> None:
        at_least = {"epochs": 1, "batch_rows": 1, "num_negatives": 0, "task_candidates": 0}
        for name, least in {**at_least, "validation_targets": 1}.items():
            if getattr(self, name) < least:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; at least {least}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"training.device is {self.device!r}; use auto, cpu or cuda")
        if not self.learning_rate > 0:
            raise ConfigError(f"training.learning_rate is {self.learning_rate}; it must be above 0")

    def torch_device(self) -> torch.device:
        """The device that `device` means on this machine.

        Raises:
            ConfigError: a GPU is asked for and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("training.device is cuda; this machine has no GPU that torch can use")
        found = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(found if self.device == "auto" else self.device)

    def to_dict(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)
