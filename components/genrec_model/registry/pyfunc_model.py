"""The model as MLflow loads it (`mlflow.pyfunc.load_model`): plain PyTorch, one user at a time.

For notebooks and batch jobs; the KServe predictor is what serves requests. MLflow runs this file
as a script ("models from code").
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from genrec_model.artifact import Artifact
from genrec_model.errors import RequestError
from genrec_model.evaluation.golden import recommend_offline
from genrec_model.features.reserved import NUM_RESERVED
from genrec_model.features.rows import window_start


class Recommender(PythonModel):
    """Rows of (history as JSON, now, k) to recommendations as JSON."""

    def load_context(self, context: Any) -> None:
        """Load the artifact that was logged with the model."""
        self.artifact = Artifact(context.artifacts["bundle"])
        self.model = self.artifact.load_model()

    # No type hints here: MLflow would take them for the signature, which is logged explicitly.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """One JSON list of ``{"item_id", "title", "score", "tasks"}`` for each input row."""
        return [
            self._recommend(json.loads(row.history), int(row.now), int(row.k))
            for row in model_input.itertuples()
        ]

    def _recommend(self, history: list[dict[str, Any]], now: int, k: int) -> str:
        vocabulary, config = self.artifact.vocabulary, self.artifact.config
        try:
            items = [vocabulary.index_of[event["item_id"]] for event in history]
            actions = [vocabulary.action_index_of[event["action"]] for event in history]
        except KeyError as error:
            raise RequestError(f"{error} is not known to the model", field="history") from error
        start = window_start(len(items), config.max_history, config.chunk_size)
        chosen, scores, tasks = recommend_offline(
            self.model,
            np.array(items[start:], np.int64),
            np.array(actions[start:], np.int64),
            np.array([event["timestamp"] for event in history[start:]], np.int64),
            now=now,
            k=k,
            exclude_seen=self.artifact.dataset.spec.exclude_seen,
        )
        return json.dumps(
            [
                {
                    "item_id": vocabulary.item_ids[item - NUM_RESERVED],
                    "title": vocabulary.titles[item - NUM_RESERVED],
                    "score": score,
                    "tasks": dict(zip(config.tasks, probabilities, strict=True)),
                }
                for item, score, probabilities in zip(
                    chosen.tolist(), scores.tolist(), tasks.tolist(), strict=True
                )
            ]
        )


set_model(Recommender())
