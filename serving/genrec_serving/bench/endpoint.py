"""Latency and throughput of one model server, engine by engine, on golden requests.

All engines are measured in one run on one machine, so their ratios mean more than the figures.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np

from genrec_model.errors import EngineError
from genrec_serving.bench.records import Record
from genrec_serving.local_server import LocalModelServer
from genrec_serving.rollout.golden import GoldenRequest, parse_answer, request_body, score_error

#: Engine, whether its cache knows the users, and how the record calls it.
PASSES = (
    ("torch", "torch"),
    ("onnxruntime", "onnxruntime"),
    ("vllm", "vllm-cold"),
    ("vllm", "vllm-cached"),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One pass over the requests: latencies in seconds, wall time, largest score error."""

    latencies: tuple[float, ...]
    seconds: float
    error: float


def measure_endpoint(
    server: LocalModelServer,
    requests: Sequence[GoldenRequest],
    *,
    concurrency: int,
    repeats: int,
) -> list[Record]:
    """Measure every engine; the first pass of vLLM has no user in its cache.

    Args:
        server: just started, so that its cache is empty.
        requests: each is one user.
        concurrency: requests under way at once.
        repeats: passes over all requests, but for the cold one, which there is only once.
    """
    results: dict[str, Measured] = {}
    for strategy, name in PASSES:
        # The engine's first request pays for what it allocates once.
        asyncio.run(_run(server, requests[-1:], strategy, 1, 1))
        cold = name == "vllm-cold"
        results[name] = asyncio.run(
            _run(
                server,
                requests[:-1] if cold else requests,
                strategy,
                concurrency,
                1 if cold else repeats,
            )
        )
    baseline = _percentile(results["torch"], 50)
    return [
        Record(
            case=f"serve-recommend-c{concurrency}",
            backend=name,
            dtype="fp32",
            p50_ms=_percentile(measured, 50),
            p95_ms=_percentile(measured, 95),
            rate=len(measured.latencies) / measured.seconds,
            unit="requests/s",
            reference="torch",
            reference_ms=baseline,
            error=measured.error,
            gpu=f"CPU, {os.cpu_count()} cores",
            note=f"{len(requests)} users of the test period, k=10, over HTTP on one machine",
        )
        for name, measured in results.items()
    ]


async def _run(
    server: LocalModelServer,
    requests: Sequence[GoldenRequest],
    strategy: str,
    concurrency: int,
    repeats: int,
) -> Measured:
    queue = list(requests) * repeats
    latencies: list[float] = []
    errors: list[float] = []

    async def worker(client: httpx.AsyncClient) -> None:
        while queue:
            request = queue.pop()
            began = time.perf_counter()
            response = await client.post(
                "/v1/recommend", json={**request_body(request), "strategy": strategy}
            )
            latencies.append(time.perf_counter() - began)
            if response.status_code != httpx.codes.OK:
                raise EngineError(f"{strategy} answered {response.status_code}: {response.text}")
            errors.append(score_error(request.expected, parse_answer(response.json())[0]))

    started = time.perf_counter()
    async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
        await asyncio.gather(*(worker(client) for _ in range(concurrency)))
    return Measured(
        latencies=tuple(latencies), seconds=time.perf_counter() - started, error=max(errors)
    )


def _percentile(measured: Measured, percent: float) -> float:
    return float(np.percentile(measured.latencies, percent)) * 1000
