"""A predictor that obeys the contract of ``/v1/recommend``, and misbehaves as told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from genrec_serving.rollout.registry_state import MemoryRegistry
from genrec_serving.rollout.splitter_server import running

Golden = list[dict[str, Any]]


def make_golden(*, users: int = 30, shift: float = 0.0) -> Golden:
    golden = []
    for user in range(users):
        items = [1000 + (user * 7 + place) % 50 for place in range(5)]
        golden.append(
            {
                "user_id": user,
                "now": 1_700_000_000 + user,
                "k": 5,
                "history": [
                    {"item_id": 1000 + user, "action": "view", "timestamp": 1_600_000_000 + user}
                ],
                "expected": {
                    "items": items,
                    "scores": [5.0 - place for place in range(5)],
                    "tasks": {
                        "engagement": [0.9 - 0.1 * place + shift for place in range(5)],
                        "retention": [((user + place) % 10) / 10 for place in range(5)],
                    },
                },
            }
        )
    return golden


@dataclass(kw_only=True)
class FakePredictor:
    """Answers golden requests; the attributes may change while it runs."""

    golden: Golden
    base_url: str = ""
    fail_every: int = 0
    delay_s: float = 0.0
    score_offset: float = 0.0
    nan: bool = False
    seen: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    stop: Callable[[], None] = lambda: None

    async def recommend(self, request: Request) -> Response:
        self.seen += 1
        body = await request.json()
        self.bodies.append(body)
        self.users.append(request.headers["X-User-Id"])
        await asyncio.sleep(self.delay_s)
        if self.fail_every and self.seen % self.fail_every == 0:
            return Response('{"error": "engine died"}', status_code=503)
        expected = next(one["expected"] for one in self.golden if one["history"] == body["history"])
        items = [
            {
                "item_id": item,
                "title": f"Thing {item}",
                "score": expected["scores"][place],
                "tasks": {
                    task: float("nan") if self.nan else values[place] + self.score_offset
                    for task, values in expected["tasks"].items()
                },
            }
            for place, item in enumerate(expected["items"][: body["k"]])
        ]
        answer = {"items": items, "model": {"name": "genrec", "version": "?"}, "strategy": "torch"}
        return Response(json.dumps(answer), media_type="application/json")

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/v1/recommend", self.recommend, methods=["POST"])])


@pytest.fixture
def start() -> Iterator[Callable[..., FakePredictor]]:
    with ExitStack() as stack:

        def begin(**options: Any) -> FakePredictor:
            predictor = FakePredictor(**{"golden": make_golden(), **options})
            own = ExitStack()
            predictor.base_url = own.enter_context(running(predictor.app))
            predictor.stop = own.close
            stack.callback(own.close)
            return predictor

        yield begin


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry(
        "genrec",
        versions={version: f"s3://models/{version}" for version in ("7", "8", "9")},
        aliases={"champion": "7", "challenger": "8"},
    )


@pytest.fixture
def golden() -> Golden:
    return make_golden()
