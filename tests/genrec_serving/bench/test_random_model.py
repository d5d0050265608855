"""A model of random weights is a model that can be served."""

from __future__ import annotations

from genrec_model.artifact import Artifact
from genrec_serving.bench.random_model import write_random_model


def test_it_is_as_large_as_told(tmp_path) -> None:
    write_random_model(
        tmp_path / "m", items=30, layers=2, width=16, heads=2, max_history=31, chunk=16
    )
    artifact = Artifact(tmp_path / "m")
    config = artifact.config
    assert (config.num_layers, config.hidden_size, config.head_dim) == (2, 16, 8)
    assert artifact.vocabulary.items.height == 30
    assert (tmp_path / "m" / "onnx" / "model.onnx").is_file()
    assert artifact.load_model().training is False
