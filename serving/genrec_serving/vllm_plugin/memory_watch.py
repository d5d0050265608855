"""Watches an engine at work: would pages or hot rows make more of a little more memory?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from genrec_cache.embedding_cache import CachedTable
from genrec_cache.marginal_cost import MarginalCost
from genrec_cache.memory_split import Dropped, SplitTuner
from genrec_cache.miss_time import time_of_miss
from genrec_cache.split_file import save_split
from genrec_serving.vllm_plugin.memory_plan import MemoryPlan
from genrec_serving.vllm_plugin.page_order import GROUP_BYTES

logger = logging.getLogger(__name__)

#: Seconds between decisions.
INTERVAL_S = 60.0
#: A step that takes longer has compiled or captured something.
_LONGEST_STEP_S = 2.0


class DroppedPages:
    """Pages that vLLM gave to somebody else. It tells those whom it lets collect its metrics.

    Args:
        entries: pages remembered: as many as one step of memory holds.
    """

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._dropped = Dropped(entries)
        self.count = 0

    def watch(self, pool: Any) -> bool:
        """Be told of a pool's pages; whether this version of vLLM offers that."""
        if getattr(pool, "metrics_collector", self) is not None:
            return False
        pool.metrics_collector = self
        return True

    def ask(self, hashes: Sequence[bytes]) -> None:
        """A request has these pages."""
        self._dropped.ask(hashes)

    def take_missed(self) -> int:
        """See `Dropped`."""
        return self._dropped.take_missed()

    def on_block_evicted(self, block: Any) -> None:
        """vLLM takes a page away."""
        if block.block_hash is not None:
            self.count += 1
            self._dropped.drop([block.block_hash[:-GROUP_BYTES]])

    def on_block_allocated(self, block: Any) -> None:
        """Nothing to do."""

    def on_block_accessed(self, block: Any) -> None:
        """Nothing to do."""

    def reset(self) -> None:
        """Nothing to do."""


class MemoryWatch:
    """Counts what a step of memory would have saved each side, and keeps the better split.

    Args:
        plan: the split in force, and where the next one is kept.
        pages: what the pool dropped.
        table: the cache of item rows.
        page_rows: rows of a page.
        history_bytes: pages of the longest history.
        clock: seconds.
        miss_ms: how what a miss costs is measured; None: see `time_of_miss`.
    """

    def __init__(
        self,
        plan: MemoryPlan,
        *,
        pages: DroppedPages,
        table: CachedTable,
        page_rows: int,
        history_bytes: int,
        clock: Callable[[], float] = time.monotonic,
        miss_ms: Callable[[CachedTable], float] | None = None,
    ) -> None:
        self._plan = plan
        self._measure_miss = miss_ms or time_of_miss
        self._pages = pages
        self._table = table
        self._page_rows = page_rows
        self._tuner = SplitTuner(plan.in_force, plan.settings(history_bytes=history_bytes))
        self._clock = clock
        self._decide_at = clock() + INTERVAL_S
        self._row_cost = MarginalCost()
        self._miss_ms: float | None = None
        self._saves = {"kv_ms": 0.0, "rows_ms": 0.0}
        self._problem = ""

    def step(self, *, computed_rows: int, seconds: float) -> None:
        """The engine has made a step, in which so many history rows were not found in pages."""
        if seconds < _LONGEST_STEP_S:
            self._row_cost.add(computed_rows, seconds * 1e3)
        if self._clock() >= self._decide_at:
            self._decide_at = self._clock() + INTERVAL_S
            self._decide()

    def statistics(self) -> dict[str, Any]:
        """Bytes of both sides, and what a step more would have saved them in the last interval."""
        return {
            "in_force": asdict(self._plan.in_force),
            "next": asdict(self._tuner.split),
            "step": self._plan.step,
            "step_pages": self._pages.entries,
            "step_would_have_saved": self._saves,
            "pages_dropped": self._pages.count,
            "problem": self._problem,
        }

    def _decide(self) -> None:
        if self._miss_ms is None:
            # Between two steps nothing else runs there.
            self._miss_ms = self._measure_miss(self._table)
        page_ms = self._page_rows * self._row_cost.of_one()
        self._saves = {
            "kv_ms": self._pages.take_missed() * page_ms,
            "rows_ms": self._table.take_missed() * self._miss_ms,
        }
        before = self._tuner.split
        after = self._tuner.update(kv_saves=self._saves["kv_ms"], rows_save=self._saves["rows_ms"])
        if after == before:
            return
        logger.info("the next engine starts with %s; this one has %s", after, self._plan.in_force)
        try:
            save_split(self._plan.file, after)
        except OSError as error:
            self._problem = f"the split is not kept in {self._plan.file}: {error}"
            logger.warning("%s", self._problem)
        else:
            self._problem = ""
