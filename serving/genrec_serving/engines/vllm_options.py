"""How large a vLLM engine is, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError
from genrec_serving.vllm_plugin.item_cache_options import ItemCacheOptions
from genrec_serving.vllm_plugin.memory_plan import MemoryPlan, plan_memory

PAGE_ORDERS = ("return", "lru")


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """How large an engine is.

    Args:
        kv_cache_mb: memory for the pages of all users' histories, in MiB.
        page_rows: rows of a page, a multiple of 16; None for 64 on a GPU and 16 on a CPU. Where
            it does not divide the model's `chunk_size`, all works, but a history that is cut
            keeps less of its cache.
        host_cache_mb: host memory for pages that leave the pool, in MiB (see
            `vllm_plugin.host_connector`); 0: they are lost.
        max_requests: most requests in one step.
        max_step_rows: most history rows in one step; longer histories take several.
        threads: of PyTorch.
        dtype: of weights and pages: "float32", "bfloat16" or "float16"; None for bfloat16 on a
            GPU and float32 on a CPU.
        processes: engines, each in a process of its own with its share of `kv_cache_mb` (see
            `vllm_processes`); 0 for one in this process; None for 1 on a GPU, whose memory an
            engine that died then gives back, and 0 on a CPU.
        passes: how rows run through the layers, see `vllm_plugin.passes`; None for graphs on a
            GPU and plain ones on a CPU.
        fp8_pages: keep keys and values in eight bits (see `vllm_plugin.fp8_pages`).
        fp8_linear: run the layers' linear layers in eight bits (see `HSTULayer.narrow`). On a CPU,
            and of float32 on a GPU, plain PyTorch rounds and multiplies, which wins nothing.
        model_runner: of vLLM: "v1", which all versions have, or "v2", which needs Triton.
        item_cache: of the item table, see `ItemCacheOptions.parse`.
        cache_state: folder in which the engine keeps what its caches learnt, so that the next one
            starts warm; None to keep nothing.
        cache_budget_mb: MiB for pages and hot item rows together, see `vllm_plugin.memory_plan`;
            `kv_cache_mb` of it is for pages at the first start. None: each has its own.
        page_order: whose pages leave a full pool first: ``return``, those of users who are the
            least likely to come back soon, or ``lru``, those that were not used for longest.

    Raises:
        ConfigError: no such `item_cache` or `page_order`, or a budget that leaves nothing to split
            or to learn.
    """

    kv_cache_mb: int = 128
    page_rows: int | None = None
    host_cache_mb: int = 0
    max_requests: int = 32
    max_step_rows: int = 4096
    threads: int = 1
    dtype: str | None = None
    passes: str | None = None
    processes: int | None = None
    fp8_pages: bool = False
    fp8_linear: bool = False
    model_runner: str = "v1"
    item_cache: str = "auto"
    cache_state: str | None = None
    cache_budget_mb: int | None = None
    page_order: str = "lru"

    def __post_init__(self) -> None:
        ItemCacheOptions.parse(self.item_cache)
        if self.page_order not in PAGE_ORDERS:
            raise ConfigError(f"page order {self.page_order}: use one of {', '.join(PAGE_ORDERS)}")
        if self.cache_budget_mb is None:
            return
        if self.item_cache not in ("auto", "on"):
            raise ConfigError(f"a cache budget goes with item cache on, not {self.item_cache}")
        if self.cache_state is None:
            raise ConfigError("a cache budget needs a folder for what the caches learnt")
        if self.kv_cache_mb >= self.cache_budget_mb:
            raise ConfigError(
                f"a cache budget of {self.cache_budget_mb} MiB leaves nothing for item rows beside "
                f"{self.kv_cache_mb} MiB for pages"
            )

    def of_process(self, number: int) -> VllmOptions:
        """Of one of the engines that have processes of their own, from 0."""
        count = self.processes or 1
        return replace(
            self,
            processes=0,
            kv_cache_mb=self.kv_cache_mb // count,
            host_cache_mb=self.host_cache_mb // count,
            cache_state=self.cache_state and f"{self.cache_state}/engine-{number}",
            cache_budget_mb=self.cache_budget_mb and self.cache_budget_mb // count,
        )

    def item_cache_options(self, artifact: Artifact) -> ItemCacheOptions:
        """How the engine caches the item table of a model."""
        return replace(
            ItemCacheOptions.parse(self.item_cache),
            artifact=str(artifact.path),
            snapshot=self.cache_state and f"{self.cache_state}/item-cache.npz",
        )

    def memory_plan(self, artifact: Artifact) -> MemoryPlan | None:
        """How pages and item rows of a model share the budget; None where there is none."""
        if self.cache_budget_mb is None or self.cache_state is None:
            return None
        config, dtype = artifact.config, getattr(torch, self.dtype or "float32")
        return plan_memory(
            budget=self.cache_budget_mb << 20,
            kv=self.kv_cache_mb << 20,
            table_bytes=config.num_items * config.hidden_size * dtype.itemsize,
            file=Path(self.cache_state) / "memory-split.json",
        )

    def for_device(self, *, cuda: bool) -> VllmOptions:
        """Nothing left open."""
        return replace(
            self,
            page_rows=self.page_rows or (64 if cuda else 16),
            dtype=self.dtype or ("bfloat16" if cuda else "float32"),
            passes=self.passes or ("graphs" if cuda else "plain"),
            processes=int(cuda) if self.processes is None else self.processes,
        )
