"""The model: embeddings, layers, and the heads that retrieve and rank.

Letters in shapes: R rows of all sequences, B sequences, W hidden width, V rows of the item table,
T tasks, C candidates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genrec_kernels.hstu_attention import hstu_attention
from genrec_kernels.time_plan import TimePlan, plan_times
from genrec_model.features.reserved import NUM_RESERVED
from genrec_model.features.rows import Rows
from genrec_model.hstu.config import HSTUConfig
from genrec_model.hstu.layer import Attend, HSTULayer


class UserScores(NamedTuple):
    """What the model says about one user.

    user: float [W], L2-normed embedding for retrieval.
    tasks: float [C, T], logits of each candidate.
    """

    user: Tensor
    tasks: Tensor


class HSTU(nn.Module):
    """Retrieves (dot product over the catalogue) and ranks (task logits of candidate rows).

    Args:
        config: shape of the model.
        item_embedding: the item table [V, W], kept as it is; None for a new one of random rows.
    """

    def __init__(self, config: HSTUConfig, *, item_embedding: nn.Embedding | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.item_embedding = item_embedding or nn.Embedding(config.num_items, width)
        self.action_embedding = nn.Embedding(config.num_actions, width)
        self.position_embedding = nn.Embedding(config.max_rows + 1, width)
        self.layers = nn.ModuleList(HSTULayer(config) for _ in range(config.num_layers))
        self.task_norm = nn.LayerNorm(width, eps=1e-6)
        self.task_hidden = nn.Linear(width, width)
        self.task_output = nn.Linear(width, len(config.tasks))
        self.dropout = nn.Dropout(config.dropout)
        for table in (self.item_embedding, self.action_embedding, self.position_embedding):
            if table is not item_embedding:
                nn.init.normal_(table.weight, std=0.02)

    def embed(self, items: Tensor, actions: Tensor, positions: Tensor) -> Tensor:
        """Rows before the first layer: int64 [...] each, to [..., W].

        Candidates carry the action 0, so they are rows like any other.
        """
        return self.embed_rows(self.item_embedding(items), actions, positions)

    def embed_rows(self, items: Tensor, actions: Tensor, positions: Tensor) -> Tensor:
        """As `embed`, for rows [..., W] of the item table."""
        rows = items + self.action_embedding(actions)
        out: Tensor = self.dropout(rows + self.position_embedding(positions))
        return out

    def run_layers(self, x: Tensor, attend: Attend) -> Tensor:
        """[..., W] to [..., W] through all layers, with the caller's attention."""
        for layer in self.layers:
            x = layer(x, attend)
        return x

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.item_embedding.weight.device

    def forward(self, rows: Rows) -> Tensor:
        """Hidden rows [R, W] of a jagged batch, which is brought to the model's device."""
        # Lengths are read where the batch was made, so that nothing waits for a GPU.
        max_rows = rows.layout.max_history + rows.layout.max_candidates
        rows = rows.to(self.device)
        time_plan = self._plan_times(rows, max_rows)

        def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return hstu_attention(
                q,
                k,
                v,
                rows=rows.layout,
                key_limits=rows.positions,
                timestamps=rows.timestamps,
                alpha=self.config.alpha,
                norm_length=self.config.norm_length,
                bias=layer.bias,
                max_rows=max_rows,
                time_plan=time_plan,
            )

        return self.run_layers(self.embed(rows.items, rows.actions, rows.positions), attend)

    def _plan_times(self, rows: Rows, max_rows: int) -> TimePlan | None:
        """The layers' tables differ, their buckets do not: one plan serves them all."""
        if not self.config.relative_bias:
            return None
        first = self.layers[0]
        assert isinstance(first, HSTULayer)
        return plan_times(
            rows.timestamps, rows=rows.layout, boundaries=first.boundaries, max_rows=max_rows
        )

    def user_embedding(self, hidden: Tensor) -> Tensor:
        """[..., W] hidden rows to unit vectors."""
        return F.normalize(hidden, dim=-1)

    def catalogue_embedding(self) -> Tensor:
        """[V, W] unit vectors of the item table."""
        return F.normalize(self.item_embedding.weight, dim=-1)

    def catalogue_scores(self, user: Tensor) -> Tensor:
        """[..., W] unit vectors to [..., V] next-item logits; reserved rows are minus infinity."""
        scores = user @ self.catalogue_embedding().T / self.config.temperature
        scores[..., :NUM_RESERVED] = -torch.inf
        return scores

    def task_logits(self, hidden: Tensor) -> Tensor:
        """[..., W] hidden candidate rows to [..., T]."""
        out: Tensor = self.task_output(F.silu(self.task_hidden(self.task_norm(hidden))))
        return out

    @torch.inference_mode()
    def score(self, rows: Rows) -> list[UserScores]:
        """Score each sequence's candidates from its history (which needs its start row).

        The scores come back on the CPU.
        """
        hidden = self(rows)
        out = []
        for rows_of_user, length in zip(
            hidden.split(rows.layout.lengths.tolist()),
            rows.layout.history_lengths.tolist(),
            strict=True,
        ):
            user = self.user_embedding(rows_of_user[length - 1]).cpu()
            out.append(UserScores(user, self.task_logits(rows_of_user[length:]).cpu()))
        return out
