"""Rows of the item table for the layers: from the whole table, or from a hot cache of it.

With the cache the table itself stays in the host's memory, and the GPU holds the hot rows alone.

Letters in shapes: V rows of the item table, R rows of a pass, W hidden width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.keeper import Keeper
from genrec_cache.policy import Ints
from genrec_cache.snapshot import SnapshotUnfit
from genrec_model.features.reserved import NUM_RESERVED
from genrec_model.hstu import HSTU
from genrec_serving.vllm_plugin.item_cache_options import ItemCacheOptions

logger = logging.getLogger(__name__)


def item_cache_options(vllm_config: Any) -> ItemCacheOptions:
    """What vLLM's ``additional_config`` says: ``{"genrec": {"item_cache": {...}}}``.

    Raises:
        ConfigError: a value is out of range.
    """
    return ItemCacheOptions.from_config(vllm_config.additional_config.get("genrec", {}))


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


class ItemRows:
    """Where a loaded model's item rows come from.

    Where a cache is wanted and cannot be made, the whole table stays on the device: that is logged
    and shown, and scores are the same.

    Args:
        hstu: changed in place where the table is cached.
        options: whether it is.
    """

    def __init__(self, hstu: HSTU, options: ItemCacheOptions) -> None:
        self._keeper: Keeper | None = None
        self.cached: CachedItems | None = None
        self._state, self._problem = "off", ""
        table = hstu.item_embedding.weight
        on_gpu = table.device.type == "cuda"
        memory = torch.cuda.get_device_properties(table.device).total_memory if on_gpu else None
        self._why = options.why_not(table.nbytes, memory) or ""
        if self._why:
            return
        slots = options.num_slots(len(table), table[0].nbytes)
        try:
            self.cached = CachedItems(table, slots, table.device)
        except (RuntimeError, MemoryError) as error:
            self._state, self._problem = "failed", f"no cache of the item table: {error}"
            logger.exception("the item table is not cached and stays on the device as a whole")
            return
        self._state = "on"
        hstu.add_module("item_embedding", self.cached)
        fill(self.cached.cache, options)
        if options.snapshot is not None:
            self._keeper = Keeper(self.cached.cache, Path(options.snapshot))

    def pass_over(self, items: Tensor) -> AbstractContextManager[None]:
        """A block that runs one pass, or replays its graph, over these items (int64 [R])."""
        return nullcontext() if self.cached is None else self.cached.pass_over(items)

    def statistics(self) -> dict[str, Any]:
        """`state` (``on``, ``off`` with `why`, ``failed`` with `problem`), and the cache's own."""
        if self.cached is not None:
            return {"state": self._state, **self.cached.statistics()}
        return {"state": self._state, "why": self._why, "problem": self._problem}

    def close(self) -> None:
        """Keep what the cache learnt, and end its threads."""
        if self._keeper is not None:
            self._keeper.close()
        if self.cached is not None:
            self.cached.cache.close()


def fill(table: CachedTable, options: ItemCacheOptions) -> None:
    """Fill the slots before the first lookup: from the snapshot, or else from popularity."""
    snapshot = None if options.snapshot is None else Path(options.snapshot)
    if snapshot is not None and snapshot.is_file():
        try:
            table.restore(snapshot)
        except (SnapshotUnfit, OSError, ValueError) as error:
            logger.warning("the hot cache does not start from its snapshot: %s", error)
        else:
            logger.info("the hot cache starts from %s", snapshot)
            return
    if options.artifact is None:
        return
    counts = popularity(Path(options.artifact), table.num_rows)
    if counts is not None:
        table.warm(counts)


def popularity(artifact: Path, rows: int) -> Ints | None:
    """Training events of each row of the item table, int64 [V]; None where they are not known."""
    try:
        counts = pl.read_parquet(artifact / "items.parquet", columns=["train_count"])
    except (OSError, pl.exceptions.PolarsError) as error:
        logger.warning("the hot cache starts cold: the items' popularity is not known: %s", error)
        return None
    known = counts["train_count"].to_numpy().astype(np.int64)
    if len(known) + NUM_RESERVED != rows:
        logger.warning(
            "the hot cache starts cold: popularity of %d items, not %d", len(known), rows
        )
        return None
    of_rows: Ints = np.pad(known, (NUM_RESERVED, 0))
    return of_rows
