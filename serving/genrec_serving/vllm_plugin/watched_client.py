"""A `CoreClient` that sees who comes back: for the order in which pages leave, and for memory.

Letters in shapes: R rows of a history.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genrec_serving.vllm_plugin.core_client import Answer, CoreClient
from genrec_serving.vllm_plugin.memory_plan import MemoryPlan
from genrec_serving.vllm_plugin.memory_watch import DroppedPages, MemoryWatch
from genrec_serving.vllm_plugin.page_order import PageOrder

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Asked:
    """A request under way.

    Args:
        rows: of its history.
        names: of its user, now and later.
        hashes: of the whole pages of its history.
    """

    rows: int
    names: list[bytes]
    hashes: list[bytes]


class WatchedClient(CoreClient):
    """A `CoreClient` whose pages and memory are watched.

    Args:
        engine, salt: as for `CoreClient`.
        plan: how memory is split; None where it is not.
        page_order: ``return`` (see `PageOrder`) or ``lru``, which is vLLM's own.
    """

    def __init__(
        self, engine: LLMEngine, salt: str, *, plan: MemoryPlan | None, page_order: str
    ) -> None:
        super().__init__(engine, salt)
        config = engine.vllm_config
        self._chunk: int = config.model_config.hf_config.hstu.chunk_size
        self._asked: dict[str, _Asked] = {}
        self._pool = self._core.engine_core.scheduler.kv_cache_manager.block_pool
        self._hash_pages = self._core.engine_core.request_block_hasher
        self._core.engine_core.request_block_hasher = self._hash
        self._order_problem = ""
        self._order = self._order_pages() if page_order == "return" else None
        self._plan = plan
        self._dropped: DroppedPages | None = None
        #: Why memory is not watched, though it has a plan.
        self._blind = ""
        self._watch = None if plan is None else self._watch_memory(plan, config)

    def add(self, request_id: str, prompt: Tensor, kwargs: dict[str, Any]) -> None:
        """As the base class says."""
        names = [] if self._order is None else names_of(prompt, self._chunk)
        self._asked[request_id] = _Asked(rows=len(prompt), names=names, hashes=[])
        try:
            super().add(request_id, prompt, kwargs)
        except ValueError:
            del self._asked[request_id]
            raise

    def drop(self, request_id: str) -> None:
        """As the base class says."""
        self._asked.pop(request_id, None)
        super().drop(request_id)

    def step(self) -> Iterator[Answer]:
        """As the base class says."""
        start = time.perf_counter()
        answers = list(super().step())
        seconds = time.perf_counter() - start
        computed = 0
        for answer in answers:
            asked = self._asked.pop(answer.request_id)
            computed += max(0, asked.rows - answer.cached_rows)
            if self._order is not None and asked.names:
                self._order.visit(asked.names[0], asked.hashes, later=asked.names[1:])
        if self._watch is not None:
            self._watch.step(computed_rows=computed, seconds=seconds)
        yield from answers

    def statistics(self) -> dict[str, Any]:
        """As the base class says, and `pages`, `page_order`, `memory_split`."""
        out = {**super().statistics(), "pages": self._pool.num_gpu_blocks}
        if self._order is not None:
            out["page_order"] = self._order.statistics()
        else:
            out["page_order"] = {"order": "lru", "problem": self._order_problem}
        if self._watch is not None:
            out["memory_split"] = self._watch.statistics()
        elif self._plan is not None:
            sides = asdict(self._plan.in_force)
            out["memory_split"] = {"in_force": sides, "next": sides, "problem": self._blind}
        return out

    def _hash(self, request: Any) -> list[Any]:
        """Hashes of a request's pages, on their way into vLLM."""
        hashes: list[Any] = self._hash_pages(request)
        asked = self._asked.get(request.request_id)
        if asked is not None:
            asked.hashes += hashes
        if self._dropped is not None:
            self._dropped.ask(hashes)
        return hashes

    def _order_pages(self) -> PageOrder | None:
        groups = self._core.engine_core.scheduler.kv_cache_config.kv_cache_groups
        problem = f"there are {len(groups)} groups of layers"
        if len(groups) == 1:
            try:
                return PageOrder(self._pool)
            except AttributeError as error:
                problem = str(error)
        self._order_problem = f"pages leave in vLLM's own order: {problem}"
        logger.warning("%s", self._order_problem)
        return None

    def _watch_memory(self, plan: MemoryPlan, config: Any) -> MemoryWatch | None:
        page_rows = config.cache_config.block_size
        page_bytes = max(1, plan.in_force.kv // self._pool.num_gpu_blocks)
        dropped = DroppedPages(max(1, plan.step // page_bytes))
        items = self._model.item_rows.cached
        if items is None:
            self._blind = "the item table is not cached"
        elif not dropped.watch(self._pool):
            self._blind = "this vLLM does not say which pages it drops"
        if self._blind:
            logger.warning("the split of memory stays as it is: %s", self._blind)
            return None
        self._dropped = dropped
        items.cache.watch_dropped(max(1, plan.step // items.weight[0].nbytes))
        return MemoryWatch(
            plan,
            pages=dropped,
            table=items.cache,
            page_rows=page_rows,
            history_bytes=-(-config.model_config.max_model_len // page_rows) * page_bytes,
        )


def names_of(prompt: Tensor, chunk: int) -> list[bytes]:
    """Names of a history's user: the first event, and those that will be first one day.

    The oldest events leave in chunks, so the first one is known beforehand. Who has no event has
    no name.

    Args:
        prompt: float32 [R, 4], from `pack`.
        chunk: events that leave at once.
    """
    words = prompt.numpy()
    return [words[row].tobytes() for row in range(1, len(words), chunk)]
