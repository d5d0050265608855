"""Health and errors of the REST API around a recommender that is not there, or fails."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from genrec_model.errors import EngineError
from genrec_serving.surfaces.admission import Admission, AdmissionLimits
from genrec_serving.surfaces.error_responses import add_error_handlers
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.rest import rest_router
from genrec_serving.telemetry.metrics import RequestMetrics


def client_of(get_recommender: Any) -> tuple[httpx.AsyncClient, CollectorRegistry]:
    registry = CollectorRegistry()
    app = FastAPI()
    front = Front(
        get_recommender,
        metrics=RequestMetrics(registry),
        admission=Admission(AdmissionLimits(), registry=registry),
    )
    app.include_router(rest_router(front))
    add_error_handlers(app)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test"), registry


def loading() -> Any:
    raise EngineError("model tiny is still loading")


def failing(error: Exception, *, healthy: bool) -> Any:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    recommender = SimpleNamespace(answer=fail, healthy=healthy, given_up=False)
    return lambda: recommender


async def test_a_server_that_loads_is_live_but_not_ready() -> None:
    client, _ = client_of(loading)
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 503
    answer = await client.post("/v1/recommend", json={"history": []})
    assert answer.status_code == 503
    assert "loading" in answer.json()["error"]["message"]
    assert (await client.get("/v1/stats")).status_code == 503


async def test_a_dead_engine_is_not_ready_and_one_that_is_given_up_not_to_be_kept() -> None:
    get_recommender = failing(EngineError("engine vllm: it failed"), healthy=False)
    client, registry = client_of(get_recommender)
    assert (await client.get("/healthz")).status_code == 200
    get_recommender().given_up = True
    assert (await client.get("/healthz")).status_code == 503
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.post("/v1/recommend", json={"history": []})).status_code == 503
    labels = {"surface": "rest", "kind": "engine"}
    assert registry.get_sample_value("genrec_request_errors_total", labels) == 1


async def test_a_mistake_of_ours_is_a_500_in_json(caplog: pytest.LogCaptureFixture) -> None:
    client, registry = client_of(failing(ZeroDivisionError("secret detail"), healthy=True))
    for path, body in (
        ("/v1/recommend", {"history": []}),
        ("/v1/rank", {"history": [], "candidates": [1]}),
    ):
        answer = await client.post(path, json=body)
        assert answer.status_code == 500
        assert answer.json()["error"]["field"] == "server"
        assert "secret" not in answer.text
    assert "secret detail" in caplog.text
    labels = {"surface": "rest", "kind": "internal"}
    assert registry.get_sample_value("genrec_request_errors_total", labels) == 2
    assert (await client.get("/readyz")).status_code == 200
