"""A layer prepares its bias once for passes without gradients, and again where weights changed."""

from __future__ import annotations

import copy

import pytest
import torch

from genrec_kernels.prepared_bias import PreparedBias
from genrec_kernels.relative_bias import RelativeBias
from genrec_model.hstu import HSTUConfig
from genrec_model.hstu.layer import HSTULayer


@pytest.fixture
def layer() -> HSTULayer:
    return HSTULayer(HSTUConfig(num_items=9, num_actions=3, tasks=()))


@torch.inference_mode()
def prepared(layer: HSTULayer) -> PreparedBias:
    bias = layer.jagged_bias
    assert isinstance(bias, PreparedBias)
    assert bias.alpha == layer.alpha
    return bias


def test_once_where_weights_stay(layer: HSTULayer) -> None:
    first = prepared(layer)
    assert prepared(layer) is first
    assert "_prepared" not in "".join(layer.state_dict())
    assert prepared(copy.deepcopy(layer)).operator_tables is not None


def test_again_after_a_pass_with_gradients(layer: HSTULayer) -> None:
    first = prepared(layer)
    assert isinstance(layer.jagged_bias, RelativeBias)
    assert prepared(layer) is not first


def test_again_after_loading_and_moving(layer: HSTULayer) -> None:
    first = prepared(layer)
    model = torch.nn.ModuleDict({"layer": layer})
    weights = model.state_dict()
    weights["layer.time_bias"] = torch.ones_like(weights["layer.time_bias"])
    model.load_state_dict(weights)
    second = prepared(layer)
    assert first.halved is not None
    assert second.halved is not None
    assert not torch.equal(second.halved.cells, first.halved.cells)
    model.to(torch.bfloat16)
    assert prepared(layer).bias.time.dtype == torch.bfloat16


def test_a_layer_without_bias_has_none() -> None:
    config = HSTUConfig(num_items=9, num_actions=3, tasks=(), relative_bias=False)
    with torch.no_grad():
        assert HSTULayer(config).jagged_bias is None
