"""History rows as prompt rows, 16 bytes each.

A prompt row is raw integers in the clothes of floats: int32 item, int32 action, int64 timestamp.
vLLM hashes these bytes block by block for its prefix cache, so a page is used again only where
items, actions and times are all the same. Nothing ever computes with them as floats.

Letters in shapes: R rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genrec_model.features.rows import UserRows

#: Columns of a prompt row in float32, the dtype that the engine runs in.
ROW_WIDTH = 4


class PromptRows(NamedTuple):
    """What a prompt row holds: int64 [R] each."""

    items: Tensor
    actions: Tensor
    timestamps: Tensor


def pack(rows: UserRows) -> Tensor:
    """Rows of one history to float32 [R, 4]."""
    words_R4 = torch.empty(len(rows.items), ROW_WIDTH, dtype=torch.int32)
    words_R4[:, 0] = torch.from_numpy(rows.items)
    words_R4[:, 1] = torch.from_numpy(rows.actions)
    words_R4[:, 2:].view(torch.int64).squeeze(1).copy_(torch.from_numpy(rows.timestamps))
    return words_R4.view(torch.float32)


def pack_bytes(rows: UserRows) -> bytes:
    """The bytes of `pack`, without PyTorch."""
    words_R4 = np.empty((len(rows.items), ROW_WIDTH), np.int32)
    words_R4[:, 0] = rows.items
    words_R4[:, 1] = rows.actions
    words_R4.view(np.int64)[:, 1] = rows.timestamps
    return words_R4.tobytes()


def unpack(prompt: Tensor) -> PromptRows:
    """The reverse of `pack`, of any number of histories."""
    words_R4 = prompt.contiguous().view(torch.int32)
    times_R = words_R4.view(torch.int64)[:, 1]
    return PromptRows(words_R4[:, 0].long(), words_R4[:, 1].long(), times_R)
