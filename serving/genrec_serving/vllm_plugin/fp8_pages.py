"""Scales for pages of eight bits: a pool holds twice the users of bfloat16, four times of float32.

The scales of a head's keys and values are so that the largest number that is expected just fits
(see `genrec_kernels.fp8_pages`).

Letters in shapes: R rows, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec_kernels.fp8_pages import qk_scale_for, scales_for
from genrec_kernels.hstu_attention import hstu_attention
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import collate, history_rows
from genrec_model.hstu import HSTU
from genrec_model.hstu.layer import HSTULayer

#: How much larger than any of the trial a number may be; beyond that it is cut.
_MARGIN = 2.0
_TRIAL_USERS = 8
_TRIAL_EVENTS = 256


class PageScales(NamedTuple):
    """Of one layer, see `genrec_kernels.paged_hstu_attention`.

    kv: float32 [2, H], of keys and of values.
    qk: of products of queries and keys.
    """

    kv: Tensor
    qk: float


@torch.inference_mode()
def page_scales(hstu: HSTU) -> Mapping[HSTULayer, PageScales]:
    """Scales of each layer, from random users who did anything in the catalogue.

    The same for the same weights, so that pages of one version of a model mean the same. The layers
    run as they are: those that are to run in eight bits are narrowed before.
    """
    config = hstu.config
    rng = np.random.default_rng(0)
    events = min(config.max_history, _TRIAL_EVENTS)
    rows = collate(
        [
            history_rows(
                rng.integers(min(NUM_RESERVED, config.num_items - 1), config.num_items, events),
                rng.integers(
                    min(NUM_RESERVED_ACTIONS, config.num_actions - 1), config.num_actions, events
                ),
                np.cumsum(rng.integers(1, 10**5, events)),
                now=10**9,
            )
            for _ in range(_TRIAL_USERS)
        ]
    ).to(hstu.action_embedding.weight.device)
    scales: dict[HSTULayer, PageScales] = {}

    def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries, keys, values = (_MARGIN * x.float().abs().amax(dim=(0, 2)) for x in (q, k, v))
        width = config.head_dim
        kv = scales_for(keys, values, width)
        qk = qk_scale_for(queries, kv, width, alpha=config.alpha, bias=layer.bias)
        scales[layer] = PageScales(kv, qk)
        return hstu_attention(
            q,
            k,
            v,
            rows=rows.layout,
            key_limits=rows.positions,
            timestamps=rows.timestamps,
            alpha=config.alpha,
            norm_length=config.norm_length,
            bias=layer.bias,
        )

    hstu.run_layers(hstu.embed(rows.items, rows.actions, rows.positions), attend)
    return scales
