"""One HSTU layer: everything but the attention itself, which the caller brings."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_kernels.fp8_linear import (
    layer_norm_fp8,
    linear_add_fp8,
    linear_silu_fp8,
    norm_gate_fp8,
)
from genrec_kernels.fused_linear import linear_add, linear_silu
from genrec_kernels.fused_norm_gate import layer_norm, norm_gate, norm_gate_of_parts
from genrec_kernels.narrow_rows import NarrowRows, narrow_rows
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries
from genrec_model.hstu.config import HSTUConfig


class AttendedParts(NamedTuple):
    """Attention that was left as the sum of parts, each of some keys, for inference.

    parts: float [S, R, H, D], to be added up over S.
    """

    parts: Tensor


class NarrowWeights(NamedTuple):
    """Weights of a layer's linear layers in eight bits."""

    uvqk: NarrowRows
    output: NarrowRows


#: Attention of one layer: (layer, q, k, v), each [..., H, D], to [..., H, D]. Training brings
#: jagged rows, the exporter padded ones, and the server KV pages.
Attend = Callable[["HSTULayer", Tensor, Tensor, Tensor], Tensor | AttendedParts]


def _heads(x: Tensor, heads: tuple[int, int]) -> Tensor:
    """[..., H·D] to [..., H, D]."""
    return x.reshape(*x.shape[:-1], *heads)


def _needs_plain_layers() -> bool:
    """For a gradient, which the fused linear layers lack, or to export a graph of known ops."""
    return torch.is_grad_enabled() or torch.compiler.is_exporting()


class HSTULayer(nn.Module):
    """``x + W_o(LN(attention(q, k, v)) ⊙ u)`` with ``u, v, q, k = SiLU(W·LN(x))``.

    arXiv 2402.17152, equations 2-4.
    """

    boundaries: Tensor

    def __init__(self, config: HSTUConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_dim
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.input_norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.uvqk = nn.Linear(config.hidden_size, 4 * inner)
        self.output_norm = nn.LayerNorm(inner, eps=1e-6)
        self.output = nn.Linear(inner, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        #: With these the linear layers run in eight bits, for inference.
        self.narrow_weights: NarrowWeights | None = None
        self.position_bias: nn.Parameter | None = None
        self.time_bias: nn.Parameter | None = None
        if config.relative_bias:
            self.position_bias = nn.Parameter(torch.zeros(config.max_rows + 1))
            self.time_bias = nn.Parameter(torch.zeros(config.num_time_buckets))
            bounds = time_bucket_boundaries(config.num_time_buckets)
            self.register_buffer("boundaries", bounds, persistent=False)
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.zeros_(self.uvqk.bias)

    @property
    def bias(self) -> RelativeBias | None:
        """The layer's bias tables, or None where the model has none."""
        if self.position_bias is None or self.time_bias is None:
            return None
        return RelativeBias(self.position_bias, self.time_bias, self.boundaries)

    def narrow(self) -> None:
        """Run the linear layers in eight bits from here on, with the weights as they are now.

        For inference, of rows [R, W].
        """
        with torch.no_grad():
            self.narrow_weights = NarrowWeights(
                narrow_rows(self.uvqk.weight), narrow_rows(self.output.weight)
            )

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """[..., W] to u [..., H·D] and q, k, v [..., H, D]."""
        norm = self.input_norm
        if _needs_plain_layers():
            projected = F.silu(self.uvqk(norm(x)))
        elif self.narrow_weights is not None:
            rows = layer_norm_fp8(x, norm.weight, norm.bias, eps=norm.eps)
            projected = linear_silu_fp8(rows, self.narrow_weights.uvqk, self.uvqk.bias)
        else:
            normal = layer_norm(x, norm.weight, norm.bias, eps=norm.eps)
            projected = linear_silu(normal, self.uvqk.weight, self.uvqk.bias)
        u, v, q, k = projected.chunk(4, dim=-1)
        heads = (self.num_heads, self.head_dim)
        return u, _heads(q, heads), _heads(k, heads), _heads(v, heads)

    def combine(self, x: Tensor, u: Tensor, attended: Tensor | AttendedParts) -> Tensor:
        """Gate the attention's output [..., H, D] by u and add it to x [..., W]."""
        norm = self.output_norm
        if self.narrow_weights is not None and not _needs_plain_layers():
            parts = attended.parts if isinstance(attended, AttendedParts) else attended[None]
            rows = norm_gate_fp8(parts.flatten(-2), u, norm.weight, norm.bias, eps=norm.eps)
            return linear_add_fp8(rows, self.narrow_weights.output, self.output.bias, x)
        if isinstance(attended, AttendedParts):
            parts = attended.parts.flatten(-2)
            gated = norm_gate_of_parts(parts, u, norm.weight, norm.bias, eps=norm.eps)
        else:
            gated = norm_gate(attended.flatten(-2), u, norm.weight, norm.bias, eps=norm.eps)
        if _needs_plain_layers():
            out: Tensor = x + self.output(self.dropout(gated))
            return out
        return linear_add(self.dropout(gated), self.output.weight, self.output.bias, x)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """[..., W] to [..., W]."""
        u, q, k, v = self.project(x)
        return self.combine(x, u, attend(self, q, k, v))
