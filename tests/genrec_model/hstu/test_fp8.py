"""A model with its attention in eight bits. What that costs a trained one,
`genrec_serving.bench.fp8_attention_quality` tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_model.errors import ConfigError
from genrec_model.evaluation.windows import target_windows, window_rows
from genrec_model.features.prepare import Features
from genrec_model.features.rows import Rows, collate
from genrec_model.hstu import HSTU
from genrec_model.hstu.fp8 import run_in_fp8
from genrec_model.training.run import model_config


def model_and_rows(features: Features, *, relative_bias: bool) -> tuple[HSTU, Rows]:
    torch.manual_seed(0)
    shape = {"max_history": 11, "chunk_size": 4, "hidden_size": 16, "num_layers": 2}
    model = HSTU(model_config(features, shape | {"relative_bias": relative_bias})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    sequences = features.sequences()
    windows = target_windows(sequences, np.arange(5, 45), model.config)
    return model, collate([window_rows(sequences, window) for window in windows])


def test_hidden_rows_are_near(features: Features) -> None:
    model, rows = model_and_rows(features, relative_bias=False)
    with torch.inference_mode():
        full, fp8 = model(rows), run_in_fp8(model, rows)
    assert fp8.shape == full.shape
    assert fp8.dtype == full.dtype
    error = float((fp8 - full).norm() / full.norm())
    assert 1e-4 < error < 0.2


def test_a_model_with_a_bias_is_refused(features: Features) -> None:
    model, rows = model_and_rows(features, relative_bias=True)
    with torch.inference_mode(), pytest.raises(ConfigError, match="no relative bias"):
        run_in_fp8(model, rows)


def test_a_gradient_is_refused(features: Features) -> None:
    model, rows = model_and_rows(features, relative_bias=False)
    with pytest.raises(ValueError, match="has no gradient"):
        run_in_fp8(model, rows)
