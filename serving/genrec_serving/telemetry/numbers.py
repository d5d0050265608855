"""What a process that takes requests counts, and the sums over several of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

#: What the engines say of themselves is the same whoever asks, and is not summed.
_OF_ENGINES = ("genrec_item_cache_", "genrec_cache_memory_bytes")
#: Gauges of which a sum would mean nothing.
_COMBINE: dict[str, Callable[[Sequence[float]], float]] = {
    "genrec_share": lambda values: sum(values) / len(values),
    "process_start_time_seconds": min,
    "process_max_fds": min,
    "python_info": max,
}


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """A number of Prometheus."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    """Numbers of Prometheus that belong together."""

    name: str
    kind: str
    says: str
    samples: list[Sample]


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """What `RequestMetrics` counted, by name; the last latencies in seconds."""

    started: float
    answered: dict[str, int]
    failed: dict[str, int]
    strategies: dict[str, int]
    events: dict[str, int]
    latencies: list[float]

    def without_latencies(self) -> Requests:
        """Of a process whose last requests are no recent ones any more."""
        return msgspec.structs.replace(self, latencies=[])

    def snapshot(self, now: float) -> dict[str, Any]:
        """For `/v1/stats`."""
        p50, p95, p99 = (
            np.percentile(self.latencies, (50, 95, 99)).round(6).tolist()
            if self.latencies
            else (0.0, 0.0, 0.0)
        )
        return {
            "uptime_s": round(now - self.started, 1),
            "answered": {"total": sum(self.answered.values()), **self.answered},
            "failed": {"total": sum(self.failed.values()), **self.failed},
            "strategies": self.strategies,
            "history_events": self.events.get("all", 0),
            "cached_events": self.events.get("cached", 0),
            "latency_ms": {
                "p50": round(p50 * 1e3, 3),
                "p95": round(p95 * 1e3, 3),
                "p99": round(p99 * 1e3, 3),
            },
        }


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process counts.

    Args:
        families: for Prometheus.
        requests: for `/v1/stats`; None of a process that takes no requests.
        admission: for `/v1/stats`, see `Admission.snapshot`.
    """

    families: list[Family]
    requests: Requests | None = None
    admission: dict[str, Any] | None = None


def collect(registry: CollectorRegistry = REGISTRY) -> list[Family]:
    """What a registry counts, without what engines say of themselves."""
    return [
        Family(
            family.name,
            family.type,
            family.documentation,
            [Sample(s.name, dict(s.labels), float(s.value)) for s in family.samples],
        )
        for family in registry.collect()
        if not family.name.startswith(_OF_ENGINES)
    ]


def sum_families(parts: Iterable[list[Family]]) -> list[Family]:
    """Numbers of several processes as those of one."""
    found: dict[str, Family] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]] = {}
    for family in (family for part in parts for family in part):
        found.setdefault(family.name, family)
        samples = values.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            samples.setdefault(key, []).append(sample.value)
    return [
        Family(
            name,
            family.kind,
            family.says,
            [
                Sample(sample, dict(labels), _combine(sample)(numbers))
                for (sample, labels), numbers in values[name].items()
            ],
        )
        for name, family in found.items()
    ]


def counters_of(families: list[Family]) -> list[Family]:
    """What only ever grows: of a process that ended, it still counts."""
    return [family for family in families if family.kind in {"counter", "histogram", "summary"}]


def sum_requests(parts: Sequence[Requests]) -> Requests:
    """The requests of several processes, at least one."""

    def total(name: str) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for part in parts:
            counts.update(getattr(part, name))
        return dict(counts)

    return Requests(
        started=min(part.started for part in parts),
        answered=total("answered"),
        failed=total("failed"),
        strategies=total("strategies"),
        events=total("events"),
        latencies=[latency for part in parts for latency in part.latencies],
    )


def sum_admission(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The places of several processes, at least one; the limits are those of all together."""
    limits = dict(parts[0]["limits"])
    for name in ("running", "waiting"):
        limits[name] = sum(part["limits"][name] for part in parts)
    refused: Counter[str] = Counter()
    for part in parts:
        refused.update(part["refused"])
    known = [part["mean_ms"] for part in parts if part["mean_ms"] is not None]
    return {
        "limits": limits,
        **{name: sum(part[name] for part in parts) for name in ("places", "running", "waiting")},
        "share": round(sum(part["share"] for part in parts) / len(parts), 4),
        "mean_ms": round(sum(known) / len(known), 3) if known else None,
        "refused": dict(refused),
    }


class Shown(Collector):
    """Families as Prometheus' library wants them."""

    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        for family in self._families:
            metric = Metric(family.name, family.says, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


def _combine(name: str) -> Callable[[Sequence[float]], float]:
    return min if name.endswith("_created") else _COMBINE.get(name, sum)
