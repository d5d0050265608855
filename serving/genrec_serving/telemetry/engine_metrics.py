"""What engines count, for Prometheus: numbers that they keep themselves, shown as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_PREFIX = "genrec_item_cache_"
#: Name in the statistics, what it is. They start at 0 with each engine.
_COUNTERS = {
    "accesses": "Item rows looked up",
    "hits": "Item rows looked up that were in a slot",
    "unique": "Item rows looked up, each once a pass",
    "unique_hits": "Item rows looked up that were in a slot, each once a pass",
    "copies": "Item rows copied into slots",
    "evictions": "Item rows that lost their slot",
}
_GAUGES = {
    "hit_rate": "Share of the item rows looked up that were in a slot, since the engine's start",
    "unique_hit_rate": "The same with each row once a pass",
    "hot_set_overlap": "Share of the rows most used of late that have a slot",
    "slot_bytes": "Memory of the slots",
    "host_bytes": "Memory of the whole table on the host",
    "residents": "Rows in slots",
    "capacity": "Slots",
}


class EngineMetrics(Collector):
    """The engines' statistics of the moment; a scrape shows what was put in last.

    Args:
        registry: where Prometheus finds it.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seen: dict[str, Mapping[str, Any]] = {}
        self._splits: dict[str, Mapping[str, Any]] = {}
        registry.register(self)

    def show(self, version: str, engines: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the statistics of a model version's engines, by name."""
        for engine in engines.values():
            cache = engine.get("item_cache")
            if cache is not None:
                self._seen[version] = cache
            split = engine.get("memory_split")
            if split is not None:
                self._splits[version] = split

    def collect(self) -> Iterator[Metric]:
        """As Prometheus wants it."""
        problem = GaugeMetricFamily(
            f"{_PREFIX}problem", "1 where the cache of item rows has one: /v1/stats says which",
            labels=("version",),
        )  # fmt: skip
        for version, cache in self._seen.items():
            problem.add_metric((version,), float(bool(cache["problem"])))
        yield problem
        memory = GaugeMetricFamily(
            "genrec_cache_memory_bytes",
            "Memory of users' pages (kv) and of hot item rows (rows), in force and from the next "
            "start on",
            labels=("side", "when", "version"),
        )
        for version, split in self._splits.items():
            for when in ("in_force", "next"):
                for side, amount in split[when].items():
                    memory.add_metric((side, when, version), amount)
        yield memory
        caches = [(version, cache) for version, cache in self._seen.items() if "hits" in cache]
        for kind, names in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, says in names.items():
                family = kind(f"{_PREFIX}{name}", says, labels=("version",))
                for version, cache in caches:
                    family.add_metric((version,), cache[name])
                yield family
