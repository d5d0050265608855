"""One layer: attention that comes in parts counts as their sum."""

from __future__ import annotations

import torch
from torch import Tensor

from genrec_model.hstu import HSTUConfig
from genrec_model.hstu.layer import AttendedParts, HSTULayer


def test_parts_of_an_attention_are_added_up() -> None:
    torch.manual_seed(0)
    config = HSTUConfig(
        num_items=1, num_actions=1, tasks=(), hidden_size=8, num_layers=1, num_heads=2,
        head_dim=4, max_history=16, chunk_size=1, norm_length=16, relative_bias=False,
    )  # fmt: skip
    layer = HSTULayer(config).eval()
    x = torch.randn(5, 8)

    def whole(_: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q + k + v

    def in_parts(_: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> AttendedParts:
        return AttendedParts(torch.stack([q, k, v]))

    def in_one_part(_: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> AttendedParts:
        return AttendedParts((q + k + v)[None])

    with torch.no_grad():
        expected = layer(x, whole)
        torch.testing.assert_close(layer(x, in_parts), expected)
        assert torch.equal(layer(x, in_one_part), expected)
