"""Keys and values of cached rows in eight bits: a pool holds four times the users of float32.

A page holds float8 (e4m3) numbers: three bits of fraction, so that each is off by at most a
sixteenth; and one scale for the keys and one for the values of each head and layer, so that the
largest that is expected just fits. Plain PyTorch reads them: the pages of a step are widened
before attention, layer by layer. The kernels for GPUs do not know such pages.

Letters in shapes: R rows, P pages, S rows a page, H heads, D head width, B requests, M pages of the
longest request.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from genrec_kernels.hstu_attention import hstu_attention
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import collate, history_rows
from genrec_model.hstu import HSTU
from genrec_model.hstu.layer import HSTULayer

FP8 = torch.float8_e4m3fn
#: Largest number of that type.
LARGEST = float(torch.finfo(FP8).max)
#: How much larger than any of the trial a number may be; beyond that it is cut.
_MARGIN = 2.0
_TRIAL_USERS = 8
_TRIAL_EVENTS = 256


def narrow(x: Tensor, scales: Tensor) -> Tensor:
    """Float [R, H, D] to the bits of float8, uint8 [R, H, D]; `scales` is float [H]."""
    scaled = (x.float() / scales[:, None]).clamp(-LARGEST, LARGEST)
    return scaled.to(FP8).view(torch.uint8)


def widen(pages: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Float8 [P, H, S, 2·D] to numbers of `dtype`.

    Args:
        pages: keys in the first half of the last axis.
        scales: float [2, H], of keys and of values.
        dtype: of what comes out.
    """
    keys, values = pages.to(dtype).chunk(2, dim=-1)
    of_keys, of_values = scales.to(dtype)[:, None, :, None, None]
    return torch.cat([keys * of_keys, values * of_values], dim=-1)


def gathered(
    pages: Tensor, page_table: Tensor, scales: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The pages of a step, widened, and where each request finds its own among them.

    Args:
        pages: float8 [P, H, S, 2·D].
        page_table: int [B, M].
        scales: float [2, H].
        dtype: of what comes out.
    """
    used, places = torch.unique(page_table, return_inverse=True)
    # Indexing knows no float8.
    bits = pages.view(torch.uint8)[used.long()]
    return widen(bits.view(FP8), scales, dtype), places.to(page_table.dtype)


@torch.inference_mode()
def page_scales(hstu: HSTU) -> Mapping[HSTULayer, Tensor]:
    """Scales of each layer, float [2, H], from random users who did anything in the catalogue.

    The same for the same weights, so that pages of one version of a model mean the same.
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
    )
    scales: dict[HSTULayer, Tensor] = {}

    def attend(layer: HSTULayer, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        largest = torch.stack([x.float().abs().amax(dim=(0, 2)) for x in (k, v)])
        scales[layer] = (largest * (_MARGIN / LARGEST)).clamp(min=torch.finfo(torch.float32).tiny)
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
