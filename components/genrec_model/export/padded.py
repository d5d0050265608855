"""HSTU over padded inputs, the form in which it is exported.

Letters in shapes: B users, L padded history rows, C candidates, T tasks, W hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from genrec_kernels.reference import padded_hstu_attention
from genrec_kernels.relative_bias import RelativeBias, time_bucket_boundaries
from genrec_model.export.hstu_op import hstu_attention_op
from genrec_model.features.reserved import NO_ACTION, PADDING
from genrec_model.features.rows import Ints, UserRows
from genrec_model.hstu import HSTU
from genrec_model.hstu.layer import HSTULayer

INPUTS = ("items", "actions", "timestamps", "lengths", "candidates", "now")
OUTPUTS = ("user", "tasks")


class PaddedHSTU(nn.Module):
    """The same weights, over padded inputs.

    Args:
        model: the model.
        custom_op: keep attention as one operator, or trace it into standard ones.
    """

    def __init__(self, model: HSTU, *, custom_op: bool) -> None:
        super().__init__()
        self.model = model
        self.custom_op = custom_op
        self.register_buffer("no_bias", torch.zeros(1), persistent=False)
        self.register_buffer("no_boundaries", time_bucket_boundaries(1), persistent=False)

    no_bias: Tensor
    no_boundaries: Tensor

    def forward(
        self,
        items: Tensor,
        actions: Tensor,
        timestamps: Tensor,
        lengths: Tensor,
        candidates: Tensor,
        now: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Score each user's candidates.

        Args:
            items, actions, timestamps: int64 [B, L], the start row first, padded on the right.
            lengths: int64 [B], history rows of each user, 1 to L.
            candidates: int64 [B, C].
            now: int64 [B], unix seconds.

        Returns:
            user: float [B, W], unit vectors for retrieval.
            tasks: float [B, C, T], logits.
        """
        history = torch.arange(items.shape[1], device=items.device).expand_as(items)
        limits = torch.cat([history, lengths[:, None].expand_as(candidates)], dim=1)
        times = torch.cat([timestamps, now[:, None].expand_as(candidates)], dim=1)
        no_action = torch.full_like(candidates, NO_ACTION)
        x = self.model.embed(
            torch.cat([items, candidates], dim=1), torch.cat([actions, no_action], dim=1), limits
        )

        def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            bias = layer.bias or RelativeBias(self.no_bias, self.no_bias, self.no_boundaries)
            alpha, norm_length = self.model.config.alpha, float(self.model.config.norm_length)
            if self.custom_op:
                out: Tensor = hstu_attention_op(q, k, v, limits, times, *bias, alpha, norm_length)
                return out
            return padded_hstu_attention(
                q, k, v, limits, times, bias, alpha=alpha, norm_length=norm_length
            )

        hidden = self.model.run_layers(x, attend)
        last = (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        user = self.model.user_embedding(hidden.gather(1, last).squeeze(1))
        return user, self.model.task_logits(hidden[:, items.shape[1] :])


def padded_inputs(users: Sequence[UserRows]) -> dict[str, Ints]:
    """Inputs of the exported model: int64 arrays by name, padded to the longest of the batch.

    Every user has at least one candidate in the graph's shape; where one has none, or fewer than
    others, the surplus outputs are to be ignored.
    """
    length = max(len(user.items) for user in users)
    width = max(1, *(len(user.candidates) for user in users))
    now = [u.candidate_times[0] if len(u.candidates) else u.timestamps[-1] for u in users]
    return {
        "items": _pad([user.items for user in users], length, PADDING),
        "actions": _pad([user.actions for user in users], length, NO_ACTION),
        "timestamps": _pad([user.timestamps for user in users], length, 0),
        "lengths": np.array([len(user.items) for user in users], np.int64),
        "candidates": _pad([user.candidates for user in users], width, PADDING),
        "now": np.array(now, np.int64),
    }


def _pad(rows: Sequence[Ints], length: int, value: int) -> Ints:
    return np.stack([np.pad(r, (0, length - len(r)), constant_values=value) for r in rows])
