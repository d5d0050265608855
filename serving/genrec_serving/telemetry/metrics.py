"""What the server counts: Prometheus metrics, and the numbers of ``/v1/stats``."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client import Counter as Count

from genrec_model.errors import EngineError, Overloaded, RequestError, StoreError
from genrec_serving.requests import Answer
from genrec_serving.telemetry.engine_metrics import EngineMetrics
from genrec_serving.telemetry.numbers import Requests

AnyMetric = TypeVar("AnyMetric", Histogram, Count)
Surface = Literal["rest", "v1", "v2", "grpc"]
#: Latencies that `/v1/stats` looks back on.
WINDOW = 1000
#: Whose fault an error is.
_KINDS: dict[type[Exception], str] = {
    RequestError: "request",
    EngineError: "engine",
    StoreError: "store",
    Overloaded: "overload",
}
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class RequestMetrics:
    """Latency, errors and cache use by surface and strategy.

    Used from one event loop; what it counts starts at 0 with the process.

    Args:
        registry: where Prometheus finds the metrics; KServe's ``/metrics`` shows the default one.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._started = time.time()
        self._seconds = Histogram(
            "genrec_request_seconds",
            "Time to answer one user's request",
            ("surface", "strategy", "version"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "genrec_stage_seconds",
            "Time of each stage of a user's request: queue, features, engine, answer",
            ("stage", "version"),
            buckets=BUCKETS,
            registry=registry,
        )
        self._batches = Histogram(
            "genrec_request_users",
            "Users of a request that may have several",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self._cached = Histogram(
            "genrec_cached_share",
            "Share of a history's events that was found in the cache; of histories with events",
            ("version",),
            buckets=(0, 0.25, 0.5, 0.75, 0.9, 0.95, 1),
            registry=registry,
        )
        self._errors = Count(
            "genrec_request_errors_total",
            "Requests that got an error, by whose fault it was",
            ("surface", "kind"),
            registry=registry,
        )
        self._rows = Count(
            "genrec_history_events_total",
            "Events of the histories that were scored, and those found in the cache",
            ("found", "version"),
            registry=registry,
        )
        self.engines = EngineMetrics(registry)
        self._labelled: dict[tuple[Any, ...], Any] = {}
        self._answered: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._strategies: Counter[str] = Counter()
        self._events: Counter[str] = Counter()
        self._latencies: deque[float] = deque(maxlen=WINDOW)

    @contextmanager
    def request(self, surface: Surface) -> Iterator[RequestObserver]:
        """Observe one user's request; an exception that leaves the block is counted."""
        observer = RequestObserver()
        start = time.perf_counter()
        try:
            yield observer
        except Exception as error:
            kind = next((kind for of, kind in _KINDS.items() if isinstance(error, of)), "internal")
            self._failed[kind] += 1
            self._errors.labels(surface, kind).inc()
            raise
        answer = observer.answer
        if answer is None:
            return
        seconds = time.perf_counter() - start
        # Of one from a batch, or that waited before it came here, the recommender knows more.
        seconds = max(seconds, answer.timings_ms.get("total", 0.0) / 1e3)
        version, of = answer.model_version, self._of
        of(self._seconds, surface, answer.strategy, version).observe(seconds)
        for stage, ms in answer.timings_ms.items():
            if stage != "total":
                of(self._stages, stage, version).observe(ms / 1e3)
        of(self._rows, "cache", version).inc(answer.cached_events)
        of(self._rows, "computed", version).inc(answer.history_events - answer.cached_events)
        if answer.history_events:
            of(self._cached, version).observe(answer.cached_events / answer.history_events)
        self._answered[surface] += 1
        self._strategies[answer.strategy] += 1
        self._events["all"] += answer.history_events
        self._events["cached"] += answer.cached_events
        self._latencies.append(seconds)

    def _of(self, metric: AnyMetric, *labels: str) -> AnyMetric:
        """The metric with these labels; to look one up here is cheaper than to ask for it."""
        key = (metric, *labels)
        found: AnyMetric | None = self._labelled.get(key)
        if found is None:
            found = self._labelled[key] = metric.labels(*labels)
        return found

    def observe_batch(self, users: int) -> None:
        """A request that may have several users came, with so many."""
        self._batches.observe(users)

    def snapshot(self) -> dict[str, Any]:
        """All numbers since the start; percentiles are of the last `WINDOW` requests."""
        return self.numbers().snapshot(time.time())

    def numbers(self) -> Requests:
        """The same, so that it can be summed with those of other processes."""
        return Requests(
            started=self._started,
            answered=dict(self._answered),
            failed=dict(self._failed),
            strategies=dict(self._strategies),
            events=dict(self._events),
            latencies=list(self._latencies),
        )


class RequestObserver:
    """Takes the answer of a request that went well."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
