"""Rows of the item table for the layers: from the whole table, or from a hot cache of it.

With the cache the table itself stays in the host's memory, and the GPU holds the hot rows alone.

Letters in shapes: V rows of the item table, R rows of a pass, W hidden width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from genrec_cache.embedding_cache import CachedTable
from genrec_model.hstu import HSTU

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ItemCacheOptions:
    """When a model's item table is cached, and how much of it.

    Args:
        slots: rows in the cache as a share of V, in (0, 1].
        above: share of the GPU's memory that a table must exceed to be cached; 0: always.

    Raises:
        ValueError: a share is out of range.
    """

    slots: float = 0.1
    above: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.slots <= 1 or not 0 <= self.above <= 1:
            raise ValueError("slots must be a share in (0, 1], above one in [0, 1]")

    def wanted(self, table: Tensor, memory: int) -> bool:
        """Whether to cache a table, on a device with so many bytes."""
        return table.numel() * table.element_size() > self.above * memory


def item_cache_options(vllm_config: Any) -> ItemCacheOptions | None:
    """What vLLM's ``additional_config`` says, or None: ``{"genrec": {"item_cache": {...}}}``.

    Raises:
        ValueError: a share is out of range.
    """
    given = vllm_config.additional_config.get("genrec", {}).get("item_cache")
    return None if given is None else ItemCacheOptions(**given)


def cache_items(hstu: HSTU, options: ItemCacheOptions | None) -> CachedItems | None:
    """Move a loaded model's item table to the host and cache it, if it is large.

    Args:
        hstu: changed in place.
        options: None for the default: on a GPU only.

    Returns:
        What takes the table's place; None where it stays as it is.
    """
    table = hstu.item_embedding.weight
    on_gpu = table.device.type == "cuda"
    if options is None and not on_gpu:
        return None
    chosen = options or ItemCacheOptions()
    memory = torch.cuda.get_device_properties(table.device).total_memory if on_gpu else 0
    if not chosen.wanted(table, memory):
        return None
    items = CachedItems(table, max(1, round(chosen.slots * len(table))), table.device)
    hstu.add_module("item_embedding", items)
    return items


class CachedItems(nn.Module):
    """Takes the place of an `nn.Embedding` for items: same rows, out of a hot cache.

    Args:
        table: float [V, W]; a copy on the CPU is kept.
        slots: of the cache.
        device: of the rows that come out.
    """

    def __init__(self, table: Tensor, slots: int, device: torch.device) -> None:
        super().__init__()
        with torch.inference_mode(False):
            host = table.detach().cpu().clone()
        self.cache = CachedTable(host, slots, device=device)
        self._whole = host
        logger.info(
            "item table of %d rows stays on the host, %d of them are cached on %s",
            len(host), self.cache.capacity, device,
        )  # fmt: skip

    @property
    def weight(self) -> Tensor:
        """The whole table [V, W], on the CPU."""
        return self._whole

    @contextmanager
    def pass_over(self, items: Tensor) -> Iterator[None]:
        """A block that runs one pass, or replays its graph, over these items (int64 [R])."""
        with self.cache.in_use(items):
            yield

    def forward(self, items: Tensor) -> Tensor:
        """Rows [R, W] of items in [0, V), on the device; inside `pass_over` only."""
        return self.cache.launch(items.flatten()).view(*items.shape, -1)

    def statistics(self) -> dict[str, float | str]:
        """See `CachedTable.statistics`."""
        return self.cache.statistics()
