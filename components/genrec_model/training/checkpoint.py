"""Checkpoints: a killed training goes on from its last whole epoch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from genrec_model.files import replacing


@dataclass(kw_only=True)
class TrainingState:
    """Everything that the next epoch depends on.

    Args:
        fingerprint: of data, model and options; a checkpoint of another training is not used.
        epoch: epochs done.
        model, optimizer, scheduler: their state dicts.
        generator: torch's random state on the CPU; dropout on a GPU starts anew.
        numpy_state: state of the generator of order and sampling.
        history: one record an epoch.
        best: weights of the best epoch so far, by validation.
        best_metric: NDCG@10 of that epoch.
    """

    fingerprint: str
    epoch: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    generator: torch.Tensor
    numpy_state: dict[str, Any]
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    best_metric: float = -1.0

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        with replacing(path) as temporary:
            torch.save(vars(self), temporary)

    @classmethod
    def load(cls, path: Path, fingerprint: str) -> TrainingState | None:
        """The checkpoint at `path`, or None where there is none of this very training."""
        if not path.is_file():
            return None
        values = torch.load(path, map_location="cpu", weights_only=True)
        return cls(**values) if values["fingerprint"] == fingerprint else None


def fingerprint(*parts: Any) -> str:
    """Digest of JSON-serialisable values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
