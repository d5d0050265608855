"""Plain PyTorch: slow, and what every other engine is compared with."""

from __future__ import annotations

import torch

from genrec_model.artifact import Artifact
from genrec_model.features.rows import UserRows, collate
from genrec_serving.engines.stateless import StatelessEngine, UserOutput
from genrec_serving.next_item import NextItem


class TorchEngine(StatelessEngine):
    """The artifact's model as it was trained, on the CPU."""

    name = "torch"

    def __init__(self, artifact: Artifact) -> None:
        self._model = artifact.load_model()
        with torch.inference_mode():
            catalogue = self._model.catalogue_embedding()
        super().__init__(NextItem(catalogue, artifact.config.temperature))

    @torch.inference_mode()
    def run(self, rows: UserRows) -> UserOutput:
        """Score one user's rows."""
        scores = self._model.score(collate([rows]))[0]
        return UserOutput(scores.user, scores.tasks)
