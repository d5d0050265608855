"""The variants of the attention kernels that are compiled ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Element = Literal["bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class AttentionVariant:
    """What is fixed when a kernel is compiled.

    Args:
        element: dtype of q, k, v and the output.
        qk_width, v_width: widths of a head.
        window: whether rows see only their last `window` keys.
        groups: computing warp groups of a block, 64 query rows each.
        keys: keys of a tile.
        stages: tiles of keys, and of values, in shared memory at once.
    """

    element: Element
    qk_width: int
    v_width: int
    window: bool
    groups: int
    keys: int
    stages: int

    @property
    def name(self) -> str:
        """Of the exported function and its file."""
        window = "_window" if self.window else ""
        return f"hstu_forward_{self.element}_{self.qk_width}x{self.v_width}{window}"
