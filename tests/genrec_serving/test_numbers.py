"""Sums over processes that take requests."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from genrec_serving.fronts.retired import Retired
from genrec_serving.telemetry.numbers import (
    Numbers,
    Requests,
    Shown,
    collect,
    sum_admission,
    sum_families,
    sum_requests,
)


def counted(requests: int, share: float, running: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("a_total", "Requests", ("kind",), registry=registry).labels("x").inc(requests)
    Gauge("genrec_share", "Share", registry=registry).set(share)
    Gauge("genrec_running_users", "Running", registry=registry).set(running)
    histogram = Histogram("b_seconds", "Time", buckets=(1, 2), registry=registry)
    for _ in range(requests):
        histogram.observe(1.5)
    Gauge("genrec_item_cache_size", "Of the engines", registry=registry).set(9)
    return registry


def requests_of(answered: int, *latencies: float) -> Requests:
    return Requests(
        started=float(answered),
        answered={"rest": answered},
        failed={"engine": 1},
        strategies={"vllm": answered},
        events={"all": 10, "cached": 5},
        latencies=list(latencies),
    )


def shown(parts: list[CollectorRegistry]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(Shown(sum_families(collect(part) for part in parts)))
    return registry


def test_families_are_summed_as_they_mean_it() -> None:
    registry = shown([counted(2, 1.0, 3), counted(5, 0.5, 4)])
    assert registry.get_sample_value("a_total", {"kind": "x"}) == 7
    assert registry.get_sample_value("b_seconds_count") == 7
    assert registry.get_sample_value("b_seconds_bucket", {"le": "2.0"}) == 7
    assert registry.get_sample_value("b_seconds_bucket", {"le": "1.0"}) == 0
    assert registry.get_sample_value("b_seconds_sum") == 10.5
    assert registry.get_sample_value("genrec_share") == 0.75
    assert registry.get_sample_value("genrec_running_users") == 7
    assert registry.get_sample_value("genrec_item_cache_size") is None
    assert b"# TYPE b_seconds histogram" in generate_latest(registry)


def test_one_alone_is_shown_as_it_is() -> None:
    alone = counted(2, 1.0, 3)
    text = generate_latest(shown([alone])).decode().splitlines()
    wanted = [
        line for line in generate_latest(alone).decode().splitlines() if "item_cache" not in line
    ]
    assert sorted(text) == sorted(wanted)


def test_who_ended_still_counts() -> None:
    retired = Retired()
    retired.add(None)
    assert retired.numbers is None
    for answered in (2, 5):
        retired.add(
            Numbers(
                families=collect(counted(answered, 1.0, 3)),
                requests=requests_of(answered, 0.1),
                admission={},
            )
        )
    assert retired.numbers is not None
    assert retired.numbers.admission is None
    assert retired.numbers.requests == sum_requests([requests_of(2), requests_of(5)])
    registry = CollectorRegistry()
    registry.register(Shown(retired.numbers.families))
    assert registry.get_sample_value("a_total", {"kind": "x"}) == 7
    assert registry.get_sample_value("genrec_running_users") is None


def test_requests_are_summed() -> None:
    found = sum_requests([requests_of(2, 0.1, 0.1), requests_of(5, 0.3)]).snapshot(now=10.0)
    assert found["uptime_s"] == 8.0
    assert found["answered"] == {"total": 7, "rest": 7}
    assert found["failed"] == {"total": 2, "engine": 2}
    assert (found["history_events"], found["cached_events"]) == (20, 10)
    assert found["latency_ms"]["p50"] == 100.0
    assert requests_of(1).snapshot(2.0)["latency_ms"] == {"p50": 0.0, "p95": 0.0, "p99": 0.0}


def test_admission_is_summed() -> None:
    one = {
        "limits": {"running": 4, "waiting": 8, "wait_s": 1.0},
        "places": 4, "share": 1.0, "running": 1, "waiting": 2, "mean_ms": 10.0,
        "refused": {"queue_full": 1},
    }  # fmt: skip
    found = sum_admission([one, {**one, "share": 0.5, "mean_ms": None, "refused": {}}])
    assert found["limits"] == {"running": 8, "waiting": 16, "wait_s": 1.0}
    assert (found["places"], found["running"], found["waiting"]) == (8, 2, 4)
    assert (found["share"], found["mean_ms"], found["refused"]) == (0.75, 10.0, {"queue_full": 1})
