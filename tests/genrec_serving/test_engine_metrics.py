"""Engines' own numbers in Prometheus."""

from __future__ import annotations

import torch
from prometheus_client import CollectorRegistry, generate_latest

from genrec_cache.embedding_cache import CachedTable
from genrec_serving.telemetry.engine_metrics import EngineMetrics


def test_the_item_cache_by_version() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    table = CachedTable(torch.rand(20, 4), 5)
    for _ in range(2):
        table.lookup(torch.tensor([1, 1, 2]))
    metrics.show("7", {"vllm": {"item_cache": {"state": "on", **table.statistics()}}, "torch": {}})
    failed = {"state": "failed", "why": "", "problem": "no memory"}
    metrics.show("8", {"vllm": {"item_cache": failed}})
    text = generate_latest(registry).decode()
    for line in (
        'genrec_item_cache_accesses_total{version="7"} 6.0',
        'genrec_item_cache_hits_total{version="7"} 3.0',
        'genrec_item_cache_unique_total{version="7"} 4.0',
        'genrec_item_cache_unique_hits_total{version="7"} 2.0',
        'genrec_item_cache_copies_total{version="7"} 2.0',
        'genrec_item_cache_evictions_total{version="7"} 0.0',
        'genrec_item_cache_hit_rate{version="7"} 0.5',
        'genrec_item_cache_unique_hit_rate{version="7"} 0.5',
        'genrec_item_cache_hot_set_overlap{version="7"} 1.0',
        'genrec_item_cache_slot_bytes{version="7"} 80.0',
        'genrec_item_cache_problem{version="7"} 0.0',
        'genrec_item_cache_problem{version="8"} 1.0',
    ):
        assert f"{line}\n" in text
    assert 'hits_total{version="8"}' not in text


def test_the_split_of_memory() -> None:
    registry = CollectorRegistry()
    metrics = EngineMetrics(registry)
    split = {"in_force": {"kv": 7, "rows": 3}, "next": {"kv": 6, "rows": 4}, "problem": ""}
    metrics.show("1", {"vllm": {"memory_split": split}, "torch": {"memory_split": None}})
    text = generate_latest(registry).decode()
    assert 'genrec_cache_memory_bytes{side="kv",version="1",when="in_force"} 7.0\n' in text
    assert 'genrec_cache_memory_bytes{side="rows",version="1",when="next"} 4.0\n' in text
