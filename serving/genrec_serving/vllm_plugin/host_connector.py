"""A second home in the host's memory for pages that leave vLLM's pool.

Every page is copied there when it is full, so that nothing has to be saved in the moment in which
vLLM takes it from a user. When the user returns, what the pool has no more is brought back, unless
to compute it again is measured to be quicker. Pages go by vLLM's own hashes, of the model's
version and all rows up to the page's last: another version, or another history, never finds them.

vLLM has such tiers of its own; they need CUDA, and one copies all layers before the first computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)

from genrec_serving.vllm_plugin.host_copies import HostCopies, Pair
from genrec_serving.vllm_plugin.host_index import HostIndex, Measured, PageCosts


@dataclass
class HostTransfers(KVConnectorMetadata):
    """What a step copies.

    Args:
        loads: before its rows are computed.
        stores: after that, page of the pool by slot: of two pages that were to go to one slot the
            second one pushed the first out.
    """

    loads: list[Pair] = field(default_factory=list)
    stores: dict[int, int] = field(default_factory=dict)


@dataclass
class HostMeasured(KVConnectorWorkerMetadata):
    """What a worker measured."""

    measured: Measured

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        """Of several workers, any: they do the same."""
        return other


@dataclass
class _Tracked:
    """A request with pages."""

    request: Any
    pages: list[int]


class HostTier:
    """The scheduler's side: what is held, what a step brings back and what it stores.

    Args:
        slots: see `HostIndex`.
        page_rows: rows of a page.
        row_bytes: see `PageCosts`.
    """

    def __init__(self, *, slots: int, page_rows: int, row_bytes: int) -> None:
        self._index = HostIndex(slots)
        self._page_rows = page_rows
        self.costs = PageCosts(row_bytes)
        self._tracked: dict[str, _Tracked] = {}
        #: Page up to which the pool has a request's rows, when it was last looked for.
        self._local: dict[str, int] = {}
        #: Requests that got their pages for the step that is being planned.
        self._placed: set[str] = set()
        self._step = HostTransfers()
        self._counts = dict.fromkeys(("hits", "rows", "loaded_pages", "stored_pages"), 0)
        self._recomputed: dict[str, int] = {}
        self._recomputed_rows = 0

    def found(self, request: Any, num_computed: int) -> int:
        """Rows to bring back beyond those that the pool has; changes nothing that matters."""
        first = num_computed // self._page_rows
        self._local[request.request_id] = first
        self._recomputed.pop(request.request_id, None)
        # The last row is always computed.
        most = (request.num_tokens - 1) // self._page_rows
        rows = self._index.count(request.block_hashes[first:most]) * self._page_rows
        if rows and not self.costs.copying_pays(rows):
            self._recomputed[request.request_id] = rows
            return 0
        return rows

    def placed(self, request: Any, pages: Sequence[int], num_rows: int) -> None:
        """A request got pages, of which those for so many rows are to be brought back."""
        key = request.request_id
        self._tracked[key] = _Tracked(request, list(pages))
        self._placed.add(key)
        self._recomputed_rows += self._recomputed.pop(key, 0)
        first = self._local.pop(key, 0)
        if not num_rows:
            return
        self._counts["hits"] += 1
        self._counts["rows"] += num_rows
        for i in range(first, first + num_rows // self._page_rows):
            slot = self._index.use(request.block_hashes[i])
            assert slot is not None, "found and placed are called in one turn of the scheduler"
            self._step.loads.append((slot, pages[i]))

    def plan(self, output: Any) -> HostTransfers:
        """The copies of a step, which fills the pages that it stores."""
        cached = output.scheduled_cached_reqs
        for key, new in zip(cached.req_ids, cached.new_block_ids, strict=True):
            if new is not None and key not in self._placed and key in self._tracked:
                self._tracked[key].pages.extend(new[0])
        for key, count in output.num_scheduled_tokens.items():
            if key in self._tracked:
                self._store(self._tracked[key], count)
        self._placed.clear()
        step, self._step = self._step, HostTransfers()
        self._counts["loaded_pages"] += len(step.loads)
        self._counts["stored_pages"] += len(step.stores)
        return step

    def forget(self, key: str) -> None:
        """A request has ended."""
        self._tracked.pop(key, None)
        self._local.pop(key, None)
        self._recomputed.pop(key, None)

    def statistics(self) -> dict[str, Any]:
        """For `/v1/stats`."""
        page_bytes = self._page_rows * self.costs.row_bytes
        return {
            "bytes": self._index.slots * page_bytes,
            "bytes_used": len(self._index) * page_bytes,
            "hits": self._counts["hits"],
            "hit_rows": self._counts["rows"],
            "recomputed_rows": self._recomputed_rows,
            "bytes_in": self._counts["stored_pages"] * page_bytes,
            "bytes_out": self._counts["loaded_pages"] * page_bytes,
            "evictions": self._index.evictions,
            "us_per_row_computed": _micro(self.costs.ms_per_row),
            "us_per_row_copied": self.costs.bytes_per_ms
            and _micro(self.costs.row_bytes / self.costs.bytes_per_ms),
        }

    def _store(self, tracked: _Tracked, count: int) -> None:
        request = tracked.request
        before = request.num_computed_tokens
        full = (before + count) // self._page_rows
        # The first page was used last: without it those behind it are of no use.
        for i in reversed(range(full)):
            if i < before // self._page_rows:
                self._index.use(request.block_hashes[i])
                continue
            slot = self._index.put(request.block_hashes[i])
            if slot is not None:
                self._step.stores[slot] = tracked.pages[i]


def _micro(ms: float | None) -> float | None:
    return None if ms is None else round(ms * 1e3, 3)


class HostConnector(KVConnectorBase_V1, SupportsHMA):
    """What vLLM asks of a second home for pages; it makes one on each side.

    ``kv_connector_extra_config`` has the arguments of `HostTier`.
    """

    #: A copy that is lost is computed again.
    requires_kv_delivery = False

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        given = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._slots = int(given["slots"])
        self.tier = HostTier(
            slots=self._slots,
            page_rows=int(given["page_rows"]),
            row_bytes=int(given["row_bytes"]),
        )
        self.copies: HostCopies | None = None

    def statistics(self) -> dict[str, Any]:
        """Of the scheduler's side, for `/v1/stats`."""
        return self.tier.statistics()

    def register_kv_caches(self, kv_caches: dict[str, Tensor]) -> None:
        """The pool's pages are there."""
        # Times first: the first layer reads them.
        order = sorted(kv_caches, key=lambda name: not name.endswith("timestamps"))
        self.copies = HostCopies({name: kv_caches[name] for name in order}, self._slots)

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:  # noqa: ARG002
        """Begin a step's loads; some versions call this after the step where there are none."""
        loads = self._get_connector_metadata().loads
        if loads and self.copies is not None:
            self.copies.load(loads)

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Unused: the layers ask `HostCopies`."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **_: Any) -> None:
        """Nothing: all layers are stored at the end."""

    def wait_for_save(self) -> None:
        """Begin to store what the step filled."""
        if self.copies is not None:
            self.copies.end(list(self._get_connector_metadata().stores.items()))

    def build_connector_worker_meta(self) -> HostMeasured | None:
        """What was measured since the last step."""
        measured = Measured() if self.copies is None else self.copies.measured()
        return None if measured == Measured() else HostMeasured(measured)

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """Rows to bring back, in the step that uses them."""
        return self.tier.found(request, num_computed_tokens), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """A request got its pages."""
        (pages,) = blocks.get_block_ids()
        self.tier.placed(request, pages, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> HostTransfers:
        """A step's copies."""
        return self.tier.plan(scheduler_output)

    def update_connector_output(self, connector_output: Any) -> None:
        """What a worker measured."""
        found = connector_output.kv_connector_worker_meta
        if isinstance(found, HostMeasured):
            self.tier.costs.learn(found.measured)

    def request_finished(
        self,
        request: Any,
        block_ids: list[int],  # noqa: ARG002  # vLLM's signature
    ) -> tuple[bool, dict[str, Any] | None]:
        """Its pages may go."""
        self.tier.forget(request.request_id)
        return False, None

    def request_finished_all_groups(
        self,
        request: Any,
        block_ids: tuple[list[int], ...],  # noqa: ARG002
    ) -> tuple[bool, dict[str, Any] | None]:
        """The same."""
        return self.request_finished(request, [])


def host_copies() -> HostCopies | None:
    """Those of the engine in this process, if it has any."""
    if not has_kv_transfer_group():
        return None
    connector = get_kv_transfer_group()
    return connector.copies if isinstance(connector, HostConnector) else None
