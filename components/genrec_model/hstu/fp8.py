"""A model with its attention in eight bits.

Letters in shapes: R rows of all sequences, W hidden width, H heads, D width of a head.
"""

from __future__ import annotations

from torch import Tensor

from genrec_kernels.hstu_attention_fp8 import hstu_attention_fp8
from genrec_model.errors import ConfigError
from genrec_model.features.rows import Rows
from genrec_model.hstu.layer import HSTULayer
from genrec_model.hstu.model import HSTU


def run_in_fp8(model: HSTU, rows: Rows) -> Tensor:
    """Hidden rows [R, W] of a jagged batch, as `HSTU.forward`; under ``torch.no_grad()``.

    Raises:
        ConfigError: the model has a relative bias, which attention in eight bits has not.
    """
    if model.config.relative_bias:
        raise ConfigError(
            "attention in eight bits has no relative bias: train with model.relative_bias false"
        )
    max_rows = rows.layout.max_history + rows.layout.max_candidates
    rows = rows.to(model.device)

    def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001
        out = hstu_attention_fp8(
            q,
            k,
            v,
            rows=rows.layout,
            key_limits=rows.positions,
            alpha=model.config.alpha,
            norm_length=model.config.norm_length,
            max_rows=max_rows,
        )
        return out.to(v.dtype)

    return model.run_layers(model.embed(rows.items, rows.actions, rows.positions), attend)
