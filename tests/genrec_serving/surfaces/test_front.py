"""The REST API in front of the plain PyTorch engine: both ways in, batches, logs and traces."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from genrec_model.errors import EngineError
from genrec_serving.engines.supervised import SupervisedEngine
from genrec_serving.engines.torch_engine import TorchEngine
from genrec_serving.recommender import Recommender
from genrec_serving.server_parts import build_app
from genrec_serving.strategies.strategy import Strategies
from genrec_serving.surfaces.admission import Admission, AdmissionLimits
from genrec_serving.surfaces.error_responses import add_error_handlers
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.request_guard import RequestGuard
from genrec_serving.telemetry import tracing
from genrec_serving.telemetry.logs import logging_config
from genrec_serving.telemetry.metrics import RequestMetrics

BODY = {"history": [{"item_id": 1000, "action": "view", "timestamp": 5}], "now": 1000, "k": 3}


class SlowEngine(TorchEngine):
    """Does not answer before it is told to."""

    def __init__(self, artifact: Any) -> None:
        super().__init__(artifact)
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.alive = True

    @property
    def healthy(self) -> bool:
        return self.alive

    async def recommend(self, call: Any) -> Any:
        self.entered.set()
        await self.go.wait()
        if not self.alive:
            raise EngineError("engine torch: out of everything")
        return await super().recommend(call)


class Server:
    """The whole application, without sockets."""

    def __init__(self, artifact: Any, engine: Any = None, **limits: Any) -> None:
        self.engine = engine or SlowEngine(artifact)
        self.registry = CollectorRegistry()
        recommender = Recommender(
            artifact=artifact,
            strategies=Strategies(
                factories={}, started={"torch": self.engine}, default="torch", unavailable={}
            ),
            name="tiny",
            version="7",
        )
        self.front = Front(
            lambda: recommender,
            metrics=RequestMetrics(self.registry),
            admission=Admission(AdmissionLimits(**limits), registry=self.registry),
        )
        app = build_app(self.front)
        add_error_handlers(app)
        app.add_middleware(RequestGuard, access_log=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


@pytest.fixture
def server(served_artifact) -> Server:
    return Server(served_artifact)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(BODY).encode(),
        b"{",
        b"",
        b'{"history": [3]}',
        b'{"history": [], "k": 0}',
        b'{"history": [], "strategy": "tensorrt"}',
        b'{"user_id": 4}',
    ],
)
async def test_the_hot_route_answers_as_the_documented_one(server, body) -> None:
    hot = await server.client.post("/v1/recommend", content=body)
    server.client._transport.app.user_middleware.clear()  # the guard and the hot routes
    server.client._transport.app.middleware_stack = None
    documented = await server.client.post("/v1/recommend", content=body)
    assert (hot.status_code, hot.headers["content-type"]) == (
        documented.status_code,
        documented.headers["content-type"],
    )
    hot_body, body = hot.json(), documented.json()
    for answer in (hot_body, body):
        answer.pop("timings_ms", None)
    assert hot_body == body


async def test_a_batch_answers_each_user(server) -> None:
    rank = {"history": BODY["history"], "candidates": [1001, 1002], "now": 1000}
    wrong = {**BODY, "k": 0}
    requests = [BODY, rank, wrong, {"x": 1}, {"user_id": 9}]
    answer = await server.client.post("/v1/batch", json={"requests": requests})
    assert answer.status_code == 200, answer.text
    answers = answer.json()["answers"]
    alone = (await server.client.post("/v1/recommend", json=BODY)).json()
    assert answers[0]["items"] == alone["items"]
    alone = (await server.client.post("/v1/rank", json=rank)).json()
    assert answers[1]["items"] == alone["items"]
    assert answers[2] == {
        "error": {"field": "k", "message": "0 is not between 1 and 1000"}, "status": 422,
    }  # fmt: skip
    assert answers[3] == {"error": {"field": "x", "message": "is not known"}, "status": 422}
    assert answers[4]["error"]["field"] == "user_id"
    assert server.value("genrec_request_users_sum") == 5
    assert server.value("genrec_requests_refused_total", reason="queue_full") is None


@pytest.mark.parametrize(
    ("body", "field", "status"),
    [
        ({"requests": []}, "requests", 422),
        ({"requests": [{}] * 257}, "requests", 422),
        ({"requests": 3}, "requests", 422),
        ({"requests": [{"history": []}, 3]}, "requests[1]", 422),
        ({}, "requests", 422),
    ],
)
async def test_wrong_batches(server, body, field, status) -> None:
    answer = await server.client.post("/v1/batch", json=body)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


async def test_an_engine_that_fails_fails_the_batch(server, monkeypatch) -> None:
    def fail(_: Any) -> Any:
        raise EngineError("engine torch: it failed")

    monkeypatch.setattr(server.engine, "recommend", fail)
    answer = await server.client.post("/v1/batch", json={"requests": [BODY, BODY]})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


async def test_overload_is_a_429_with_retry_after(served_artifact) -> None:
    server = Server(served_artifact, running=1, waiting=0)
    server.engine.go.clear()
    first = asyncio.create_task(server.client.post("/v1/recommend", json=BODY))
    await server.engine.entered.wait()
    refused = await server.client.post("/v1/recommend", json=BODY)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["field"] == "server"
    batch = await server.client.post("/v1/batch", json={"requests": [BODY, BODY]})
    assert batch.status_code == 429
    stats = (await server.client.get("/v1/stats")).json()
    assert stats["admission"]["running"] == 1
    assert stats["admission"]["refused"] == {"queue_full": 2}
    assert stats["requests"]["failed"]["overload"] == 1
    server.engine.go.set()
    assert (await first).status_code == 200
    labels = {"surface": "rest", "kind": "overload"}
    assert server.value("genrec_request_errors_total", **labels) == 1


async def test_a_deadline_that_passes_is_a_503(server) -> None:
    server.engine.go.clear()
    headers = {"X-Request-Timeout-Ms": "1"}
    answer = await server.client.post("/v1/recommend", json=BODY, headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "0.001 s" in answer.json()["error"]["message"]
    assert server.front.admission.running == 0


async def test_an_engine_that_dies_mid_load_is_a_503_until_it_is_back(served_artifact) -> None:
    engines = [SlowEngine(served_artifact), SlowEngine(served_artifact)]
    dying, may_start = engines[0], asyncio.Event()
    dying.go.clear()
    engine = SupervisedEngine(lambda: engines.pop(0), sleep=lambda _: may_start.wait())
    server = Server(served_artifact, engine)
    posts = [asyncio.create_task(server.client.post("/v1/recommend", json=BODY)) for _ in "12345"]
    while server.front.admission.running < 5:
        await asyncio.sleep(0)
    await dying.entered.wait()
    dying.alive = False
    dying.go.set()
    answers = [await post for post in posts]
    answers.append(await server.client.post("/v1/recommend", json=BODY))
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["field"] == "engine"
    assert (await server.client.get("/readyz")).status_code == 503
    assert (await server.client.get("/healthz")).status_code == 200
    stats = (await server.client.get("/v1/stats")).json()
    assert stats["strategies"]["engine"]["state"] == "restarting"
    may_start.set()
    await engine._restart
    assert (await server.client.get("/readyz")).status_code == 200
    assert (await server.client.post("/v1/recommend", json=BODY)).status_code == 200
    assert server.front.admission.running == 0


async def test_a_server_that_drains_is_not_ready_and_answers(server) -> None:
    assert (await server.client.get("/readyz")).status_code == 200
    server.front.draining = True
    assert (await server.client.get("/readyz")).status_code == 503
    assert (await server.client.get("/healthz")).status_code == 200
    assert (await server.client.post("/v1/recommend", json=BODY)).status_code == 200


async def test_metrics_know_stage_and_version(server) -> None:
    await server.client.post("/v1/recommend", json=BODY)
    for stage in ("queue", "features", "engine", "answer"):
        assert server.value("genrec_stage_seconds_count", stage=stage, version="7") == 1
    assert server.value("genrec_cached_share_count", version="7") == 1
    labels = {"surface": "rest", "strategy": "torch", "version": "7"}
    assert server.value("genrec_request_seconds_count", **labels) == 1


async def test_logs_are_json_with_the_request(server) -> None:
    written = io.StringIO()
    config = logging_config("json")
    config["handlers"]["stderr"]["stream"] = written
    before = logging.getLogger().handlers[:]
    logging.config.dictConfig(config)
    try:
        await server.client.get("/readyz", headers={"X-Request-Id": "r-1"})
        logging.getLogger("genrec_serving").warning("outside")
    finally:
        logging.getLogger().handlers[:] = before
    line, outside = map(json.loads, written.getvalue().splitlines())
    assert (line["request_id"], line["level"]) == ("r-1", "INFO")
    assert (line["path"], line["status"], line["method"]) == ("/readyz", 200, "GET")
    assert line["ms"] >= 0
    assert (outside["request_id"], outside["message"]) == (None, "outside")


async def test_traces(server) -> None:
    exporter = InMemorySpanExporter()
    provider = tracing.trace_to(exporter, service="tiny")
    try:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await server.client.post("/v1/recommend", json=BODY, headers={"traceparent": parent})
        await server.client.get("/readyz")
        provider.force_flush()
    finally:
        tracing.stop_tracing()
        provider.shutdown()
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /v1/recommend", "features", "engine", "answer"}
    request = spans["POST /v1/recommend"]
    assert request.context.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert request.attributes["http.response.status_code"] == 200
    assert spans["engine"].parent.span_id == request.context.span_id
    assert request.resource.attributes["service.name"] == "tiny"
