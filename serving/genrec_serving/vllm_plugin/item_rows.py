"""Rows of the item table for the layers: from the whole table, or from a hot cache of it.

With the cache the table itself stays in the host's memory, and the GPU holds the hot rows alone:
from the artifact's file on, the table is never there as a whole.

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
from genrec_cache.host_rows import HostRows
from genrec_cache.keeper import Keeper
from genrec_cache.policy import Ints
from genrec_cache.snapshot import SnapshotUnfit
from genrec_cache.stored_matrix import StoredMatrix
from genrec_model.features.reserved import NUM_RESERVED
from genrec_model.hstu import HSTU
from genrec_serving.vllm_plugin.compact_catalogue import CompactCatalogue
from genrec_serving.vllm_plugin.item_cache_options import ItemCacheOptions
from genrec_serving.vllm_plugin.streamed_catalogue import StreamedCatalogue
from genrec_serving.vllm_plugin.unit_codes import UnitCodes

logger = logging.getLogger(__name__)

#: Ids after which what is hot is decided anew: those of some hundred requests. To decide takes a
#: millisecond or two of Python's lock, however few they are, and the engine's thread waits for it.
BATCH_IDS = 32_768


def item_cache_options(vllm_config: Any) -> ItemCacheOptions:
    """What vLLM's ``additional_config`` says: ``{"genrec": {"item_cache": {...}}}``.

    Raises:
        ConfigError: a value is out of range.
    """
    return ItemCacheOptions.from_config(vllm_config.additional_config.get("genrec", {}))


class CachedItems(nn.Module):
    """Takes the place of an `nn.Embedding` for items: same rows, out of a hot cache.

    Args:
        host: the table [V, W].
        slots: of the cache.
        device: of the rows that come out.
    """

    def __init__(self, host: HostRows, slots: int, device: torch.device) -> None:
        super().__init__()
        self.cache = CachedTable(host, slots, device=device, batch_ids=BATCH_IDS)
        logger.info(
            "item table of %d rows stays on the host, %d of them are cached on %s",
            host.num_rows, self.cache.capacity, device,
        )  # fmt: skip

    @property
    def weight(self) -> Tensor:
        """The whole table [V, W], on the CPU."""
        return self.cache.host.stored.values

    @contextmanager
    def pass_over(self, items: Tensor | None) -> Iterator[None]:
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
    """Where a model's item rows come from: they are read here, to where they stay.

    The device gets the whole table or the slots of the cache, never both; the host gets it where
    it is cached, on a CPU as the mapped file itself where the data type is the model's.

    Where a cache is wanted and cannot be made, the whole table goes to the device: that is logged
    and shown, and scores are the same.

    Args:
        hstu: gets its item embedding.
        table: of the artifact.
        options: whether it is cached.
        dtype: of the rows.
        device: of the rows that come out.

    Raises:
        OSError: the table cannot be read.
    """

    def __init__(
        self,
        hstu: HSTU,
        table: StoredMatrix,
        options: ItemCacheOptions,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._keeper: Keeper | None = None
        self.cached: CachedItems | None = None
        #: To search the table; None where it is on the device as a whole.
        self.catalogue: StreamedCatalogue | None = None
        self._why_stream = ""
        self._state, self._problem = "off", ""
        cuda = device.type == "cuda"
        memory = torch.cuda.get_device_properties(device).total_memory if cuda else None
        self._why = options.why_not(table.num_bytes(dtype), memory) or ""
        if not self._why:
            slots = options.num_slots(table.num_rows, table.width * dtype.itemsize)
            try:
                self.cached = CachedItems(read(table, dtype, device), slots, device)
            except (RuntimeError, MemoryError, OSError) as error:
                self._state, self._problem = "failed", f"no cache of the item table: {error}"
                logger.exception("the item table is not cached and goes to the device as a whole")
        hstu.add_module("item_embedding", self.cached or whole(table, dtype, device))
        if self.cached is None:
            return
        self._state = "on"
        fill(self.cached.cache, options)
        self.catalogue, self._why_stream = searched(self.cached.cache, options, memory)
        if options.snapshot is not None:
            self._keeper = Keeper(self.cached.cache, Path(options.snapshot))

    def pass_over(self, items: Tensor | None) -> AbstractContextManager[None]:
        """A block that runs one pass, or replays its graph, over these items (int64 [R]).

        None: the items are not counted.
        """
        return nullcontext() if self.cached is None else self.cached.pass_over(items)

    def statistics(self) -> dict[str, Any]:
        """`state` (``on``, ``off`` with `why`, ``failed`` with `problem`), and the cache's own."""
        if self.cached is not None and self.catalogue is not None:
            rows, search = self.cached.statistics(), self.catalogue.statistics()
            problems = (rows["problem"], self.catalogue.problem)
            return {
                "state": self._state,
                **rows,
                **search,
                "search_why": self._why_stream,
                "problem": "; ".join(str(one) for one in problems if one),
            }
        return {"state": self._state, "why": self._why, "problem": self._problem}

    def close(self) -> None:
        """Keep what the cache learnt, and end its threads."""
        if self._keeper is not None:
            self._keeper.close()
        if self.cached is not None:
            self.cached.cache.close()


def read(table: StoredMatrix, dtype: torch.dtype, device: torch.device) -> HostRows:
    """The whole table in the host's memory, for rows on a device.

    Mapped from the file, a GPU's driver would copy it page by small page to pin it.

    Raises:
        OSError: it cannot be read, or there is not so much memory.
    """
    with torch.inference_mode(False):
        if device.type == "cpu" and dtype == table.dtype:
            return HostRows(table.mapped())
        return HostRows(table.in_memory(dtype))


def whole(table: StoredMatrix, dtype: torch.dtype, device: torch.device) -> nn.Embedding:
    """The whole table on a device, a piece at a time.

    Raises:
        OSError: it cannot be read.
    """
    rows = torch.empty(table.num_rows, table.width, dtype=dtype, device=device)
    table.copy_to(rows)
    return nn.Embedding(table.num_rows, table.width, _weight=rows, _freeze=True)


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


def searched(
    table: CachedTable, options: ItemCacheOptions, memory: int | None
) -> tuple[StreamedCatalogue, str]:
    """How retrieval searches a cached table, and why it reads the whole of it where it does.

    Args:
        table: of items.
        options: whether the device may have a copy in eight bits.
        memory: bytes of the GPU; None on a CPU.
    """
    size = UnitCodes.bytes_of(table.num_rows, table.width)
    why = options.why_no_copy(size, memory)
    if why is None:
        try:
            found = CompactCatalogue(table)
        except (RuntimeError, ValueError) as error:
            why = f"no copy in eight bits: {error}"
            logger.warning("%s", why)
        else:
            logger.info("retrieval searches a copy of the items in eight bits, %d bytes", size)
            return found, ""
    logger.info("retrieval reads the whole item table once a search: %s", why)
    return StreamedCatalogue(table), why


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
