"""What the server counts: Prometheus metrics, and the numbers of ``/v1/stats``."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Histogram
from prometheus_client import Counter as Count

from genrec_model.errors import EngineError, GenrecError
from genrec_serving.requests import Answer

Surface = Literal["rest", "v1", "v2", "grpc"]
#: Latencies that `/v1/stats` looks back on.
WINDOW = 1000
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
            ("surface", "strategy"),
            buckets=BUCKETS,
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
            ("found",),
            registry=registry,
        )
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
            kind = "engine" if isinstance(error, EngineError) else "request"
            if not isinstance(error, GenrecError):
                kind = "internal"
            self._failed[kind] += 1
            self._errors.labels(surface, kind).inc()
            raise
        answer = observer.answer
        if answer is None:
            return
        seconds = time.perf_counter() - start
        self._seconds.labels(surface, answer.strategy).observe(seconds)
        self._rows.labels("cache").inc(answer.cached_events)
        self._rows.labels("computed").inc(answer.history_events - answer.cached_events)
        self._answered[surface] += 1
        self._strategies[answer.strategy] += 1
        self._events["all"] += answer.history_events
        self._events["cached"] += answer.cached_events
        self._latencies.append(seconds)

    def snapshot(self) -> dict[str, Any]:
        """All numbers since the start; percentiles are of the last `WINDOW` requests."""
        p50, p95, p99 = (
            np.percentile(list(self._latencies), (50, 95, 99)).round(6).tolist()
            if self._latencies
            else (0.0, 0.0, 0.0)
        )
        return {
            "uptime_s": round(time.time() - self._started, 1),
            "answered": {"total": self._answered.total(), **self._answered},
            "failed": {"total": self._failed.total(), **self._failed},
            "strategies": dict(self._strategies),
            "history_events": self._events["all"],
            "cached_events": self._events["cached"],
            "latency_ms": {
                "p50": round(p50 * 1e3, 3),
                "p95": round(p95 * 1e3, 3),
                "p99": round(p99 * 1e3, 3),
            },
        }


class RequestObserver:
    """Takes the answer of a request that went well."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
