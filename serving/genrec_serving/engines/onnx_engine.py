"""ONNX Runtime over the artifact's exported graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from safetensors import safe_open

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineUnavailable
from genrec_model.export.padded import padded_inputs
from genrec_model.features.rows import UserRows
from genrec_serving.engines.stateless import StatelessEngine, UserOutput
from genrec_serving.next_item import NextItem

#: Where the export step puts the graph.
GRAPH = "onnx/model.onnx"


class OnnxEngine(StatelessEngine):
    """The artifact's ONNX graph on the CPU.

    Args:
        artifact: the model, with its graph.
        threads: of ONNX Runtime.

    Raises:
        EngineUnavailable: the artifact has no graph, or ONNX Runtime is not installed.
        EngineError: ONNX Runtime cannot load the graph.
    """

    name = "onnxruntime"

    def __init__(self, artifact: Artifact, *, threads: int = 1) -> None:
        path = artifact.path / GRAPH
        if not path.is_file():
            raise EngineUnavailable(f"onnxruntime: this model has no {GRAPH}; export it first")
        from genrec_model.engines.onnxruntime_engine import load_onnx

        try:
            self._graph = load_onnx(path, threads=threads)
        except ImportError as error:
            raise EngineUnavailable("onnxruntime: it is not installed") from error
        # The graph has the user's vector as output, the items' vectors come from the weights.
        with safe_open(str(artifact.path / "model.safetensors"), framework="pt") as weights:
            catalogue = F.normalize(weights.get_tensor("item_embedding.weight"), dim=-1)
        super().__init__(NextItem(catalogue, artifact.config.temperature))

    def run(self, rows: UserRows) -> UserOutput:
        """Score one user's rows."""
        user, logits = self._graph(padded_inputs([rows]))
        # The graph has one candidate at least, where the user may have none.
        return UserOutput(
            torch.from_numpy(user[0]), torch.from_numpy(logits[0, : len(rows.candidates)])
        )
