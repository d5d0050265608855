"""Traffic for a rollout: golden requests, replayed against a splitter or a server."""

from __future__ import annotations

import asyncio
import itertools
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genrec_model.errors import ConfigError
from genrec_serving.rollout.golden import (
    GoldenRequest,
    Ranking,
    parse_answer,
    request_body,
    score_error,
)
from genrec_serving.rollout.observation import Observation, Outcome
from genrec_serving.rollout.splitter import ARM_HEADER, USER_HEADER, VERSION_HEADER

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Golden requests against one base URL.

    Each pass over the golden requests plays other users: their ids get the pass's number as a
    suffix, so that a share of 5 % finds users among a few hundred golden ones. The users are made
    up; the histories and the offline answers stay those of the golden user, because the suffixed
    id goes only into the header that the splitter is sticky by.

    Args:
        base_url: of a splitter or a server.
        requests: what is sent, in turn.
        golden: version to offline answers by question (see `golden.by_question`); a version that
            is not here is not compared.
        arms: version to arm, for a cluster's gateway, which names no arm; the answer's own
            version then decides.
        concurrency: requests under way at once.
        timeout_s: for one request.

    Raises:
        ConfigError: there is nothing to send, or the concurrency is below 1.
    """

    base_url: str
    requests: Sequence[GoldenRequest]
    golden: Mapping[str, Mapping[str, Ranking]]
    arms: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 8
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if not self.requests:
            raise ConfigError("rollout: there are no golden requests to send")
        if self.concurrency < 1:
            raise ConfigError("rollout: concurrency must be at least 1")

    async def send(self, count: int, *, start: int = 0) -> dict[str, Observation]:
        """Send some requests and sum up what came back, by arm.

        Args:
            count: how many.
            start: number of the first one; go on where the last call ended to meet new users.

        Returns:
            ``stable`` and ``canary``. What cannot be told apart, such as a gateway's error,
            counts for the canary.
        """
        import httpx

        numbers = iter(range(start, start + count))
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(
            timeout=self.timeout_s, limits=limits, trust_env=False
        ) as client:
            workers = min(self.concurrency, count)
            done = await asyncio.gather(*(self._work(client, numbers) for _ in range(workers)))
        outcomes = list(itertools.chain.from_iterable(done))
        return {
            arm: Observation.of(outcome for outcome in outcomes if outcome.arm == arm)
            for arm in ("stable", "canary")
        }

    async def _work(self, client: httpx.AsyncClient, numbers: Iterator[int]) -> list[Outcome]:
        return [await self._ask(client, number) for number in numbers]

    async def _ask(self, client: httpx.AsyncClient, number: int) -> Outcome:
        import httpx

        request = self.requests[number % len(self.requests)]
        began = time.perf_counter()
        try:
            answer = await client.post(
                f"{self.base_url}/v1/recommend",
                json=request_body(request),
                headers={USER_HEADER: _user(request, number // len(self.requests))},
            )
        except httpx.HTTPError as error:
            failure = str(error) or type(error).__name__
            return Outcome(arm="canary", latency_ms=_since(began), failure=failure)
        latency_ms = _since(began)
        arm = answer.headers.get(ARM_HEADER, "canary")
        if answer.status_code != 200:
            failure = f"HTTP {answer.status_code} {answer.text[:200]}"
            return Outcome(arm=arm, latency_ms=latency_ms, failure=failure)
        try:
            served, version = parse_answer(answer.json())
        except ValueError as error:
            return Outcome(arm=arm, latency_ms=latency_ms, failure=str(error))
        version = answer.headers.get(VERSION_HEADER, version)
        if ARM_HEADER not in answer.headers:
            arm = self.arms.get(version or "", arm)
        expected = self.golden.get(version or "", {}).get(request.key)
        if expected is None:
            return Outcome(arm=arm, latency_ms=latency_ms)
        return Outcome(
            arm=arm,
            latency_ms=latency_ms,
            score_error=score_error(expected, served),
            served=served.probabilities,
            offline=expected.probabilities,
        )


def _user(request: GoldenRequest, repeat: int) -> str:
    name = request.user_id if repeat == 0 else f"{request.user_id}#{repeat}"
    return urllib.parse.quote(name, safe="#")


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
