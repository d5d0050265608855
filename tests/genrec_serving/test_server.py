"""A real server process: four surfaces, one answer."""

import json
import re
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import (
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    RepositoryModelUnloadRequest,
    ServerReadyRequest,
)
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from kserve.protocol.infer_type import InferResponse, RequestedOutput

pytestmark = pytest.mark.slow

BINARY_HEADER = "inference-header-content-length"


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.base_url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield GRPCInferenceServiceStub(channel)


def tensor(name: str, values: Any, datatype: str, *, binary: bool) -> InferInput:
    array = np.array(values, np.int64 if datatype == "INT64" else np.object_)
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def v2_request(
    histories: list[list[dict[str, Any]]],
    *,
    binary: bool,
    candidates: list[int] | None = None,
    model: str = "tiny",
    outputs: list[str] | None = None,
    **parameters: Any,
) -> InferRequest:
    """A request as KServe's own client makes it."""
    longest = max(len(history) for history in histories)

    def column(name: str, padding: Any) -> list[list[Any]]:
        return [[e[name] for e in h] + [padding] * (longest - len(h)) for h in histories]

    inputs = [
        tensor("history_items", column("item_id", 0), "INT64", binary=binary),
        tensor("history_actions", column("action", ""), "BYTES", binary=binary),
        tensor("history_timestamps", column("timestamp", 0), "INT64", binary=binary),
        tensor("history_lengths", [len(h) for h in histories], "INT64", binary=binary),
    ]
    if candidates is not None:
        inputs.append(tensor("candidates", [candidates] * len(histories), "INT64", binary=binary))
    requested = [RequestedOutput(name, {"binary_data": binary}) for name in outputs or ()] or None
    return InferRequest(
        model, inputs, request_id="r1", parameters=parameters, request_outputs=requested
    )


def over_json(http: httpx.Client, request: InferRequest) -> dict[str, np.ndarray]:
    body, _ = request.to_rest()
    response = http.post(f"/v2/models/{request.model_name}/infer", json=body)
    assert response.status_code == 200, response.text
    return arrays(InferResponse.from_rest(response.json()))


def over_binary(http: httpx.Client, request: InferRequest) -> dict[str, np.ndarray]:
    request.parameters = {**request.parameters, "binary_data_output": True}
    body, length = request.to_rest()
    response = http.post(
        f"/v2/models/{request.model_name}/infer",
        content=body,
        headers={BINARY_HEADER: str(length), "content-type": "application/octet-stream"},
    )
    assert response.status_code == 200, response.text
    return arrays(InferResponse.from_bytes(response.content, int(response.headers[BINARY_HEADER])))


def over_grpc(stub: GRPCInferenceServiceStub, request: InferRequest) -> dict[str, np.ndarray]:
    response: ModelInferResponse = stub.ModelInfer(request.to_grpc(), timeout=30)
    return arrays(InferResponse.from_grpc(response))


def arrays(response: InferResponse) -> dict[str, np.ndarray]:
    assert response.model_name == "tiny"
    return {output.name: output.as_numpy() for output in response.outputs}


def as_arrays(answers: list[dict[str, Any]], width: int) -> dict[str, np.ndarray]:
    """Answers of the REST API in the form of V2 outputs."""

    def padded(values: list[Any], padding: Any) -> list[Any]:
        return values + [padding] * (width - len(values))

    items = [answer["items"] for answer in answers]
    tasks = {
        task: np.array([padded([i["tasks"][task] for i in user], 0.0) for user in items])
        for task in ("engagement", "retention")
    }
    return {
        "items": np.array([padded([i["item_id"] for i in user], -1) for user in items]),
        "scores": np.array([padded([i["score"] for i in user], 0.0) for user in items]),
        **tasks,
        "counts": np.array([len(user) for user in items]),
    }


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    assert found["items"].tolist() == wanted["items"].tolist()
    assert found["counts"].tolist() == wanted["counts"].tolist()
    for name in ("scores", "engagement", "retention"):
        np.testing.assert_allclose(found[name], wanted[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("lengths", [[0], [1], [16], [40, 3, 0], [200, 47]])
def test_all_surfaces_recommend_the_same(http, stub, truth, lengths) -> None:
    histories = [truth.events_json(n, seed=20) for n in lengths]
    now, k = truth.now, 4
    answers = [
        http.post("/v1/recommend", json={"history": h, "k": k, "now": now}).json()
        for h in histories
    ]
    wanted = as_arrays(answers, k)
    instances = [{"history": h, "k": k, "now": now} for h in histories]
    v1 = http.post("/v1/models/tiny:predict", json={"instances": instances}).json()
    assert_same(as_arrays(v1["predictions"], k), wanted)
    assert_same(over_json(http, v2_request(histories, binary=False, k=k, now=now)), wanted)
    assert_same(over_binary(http, v2_request(histories, binary=True, k=k, now=now)), wanted)
    assert_same(over_grpc(stub, v2_request(histories, binary=True, k=k, now=now)), wanted)
    assert_same(over_grpc(stub, v2_request(histories, binary=False, k=k, now=now)), wanted)
    for history, answer, n in zip(histories, answers, lengths, strict=True):
        seen = {event["item_id"] for event in history}
        assert not seen & {item["item_id"] for item in answer["items"]}
        exclude = np.array([item - 997 for item in seen], np.int64)
        offline = truth.recommend(truth.rows(n, seed=20), k, exclude=exclude)
        assert [i["item_id"] - 997 for i in answer["items"]] == offline.items.tolist()
        scores = [i["score"] for i in answer["items"]]
        np.testing.assert_allclose(scores, offline.scores, atol=1e-4, rtol=0)


def test_all_surfaces_rank_the_same(http, stub, truth) -> None:
    history, now = truth.events_json(30, seed=21), truth.now
    candidates = list(range(1010, 1030))
    body = {"history": history, "candidates": candidates, "now": now}
    wanted = as_arrays([http.post("/v1/rank", json=body).json()], 20)
    v1 = http.post("/v1/models/tiny:predict", json={"instances": [body]}).json()
    assert_same(as_arrays(v1["predictions"], 20), wanted)
    for binary in (False, True):
        request = v2_request([history], binary=binary, candidates=candidates, now=now)
        assert_same(over_grpc(stub, request), wanted)
    request = v2_request([history], binary=False, candidates=candidates, now=now)
    assert_same(over_json(http, request), wanted)
    request = v2_request([history], binary=True, candidates=candidates, now=now)
    assert_same(over_binary(http, request), wanted)


def test_a_second_request_finds_its_history_in_the_cache(http, truth) -> None:
    body = {"history": truth.events_json(45, seed=22), "now": truth.now}
    first = http.post("/v1/recommend", json=body).json()
    second = http.post("/v1/recommend", json=body).json()
    assert (first["cached_events"], second["cached_events"]) == (0, 31)
    assert_same(as_arrays([second], 10), as_arrays([first], 10))


def test_appended_events_extend_what_is_cached(http, truth) -> None:
    history, now = truth.events_json(45, seed=25), truth.now
    events = [{**event, "event_id": f"e{i}"} for i, event in enumerate(history)]

    def append(part: list[dict[str, Any]]) -> dict[str, Any]:
        return http.post("/v1/users/new-25/events", json={"events": part}).json()

    body = {"user_id": "new-25", "now": now}
    assert http.post("/v1/recommend", json=body).status_code == 404
    assert append(events[:40])["accepted"] == 40
    first = http.post("/v1/recommend", json=body).json()
    assert append(events[30:])["duplicates"] == 10
    second = http.post("/v1/recommend", json=body).json()
    assert (first["cached_events"], second["cached_events"]) == (0, 31)
    assert (first["history_events"], second["history_events"]) == (40, 45)
    wanted = http.post("/v1/recommend", json={"history": history, "now": now}).json()
    assert_same(as_arrays([second], 10), as_arrays([wanted], 10))
    assert http.delete("/v1/users/new-25").json() == {"user_id": "new-25", "forgotten": True}
    assert http.post("/v1/recommend", json=body).status_code == 404


@pytest.mark.parametrize("strategy", ["vllm", "onnxruntime", "torch"])
def test_a_request_may_force_its_engine(http, truth, strategy) -> None:
    body = {"history": truth.events_json(33, seed=23), "now": truth.now}
    wanted = as_arrays([http.post("/v1/recommend", json=body).json()], 10)
    forced = http.post("/v1/recommend", json={**body, "strategy": strategy}).json()
    assert (forced["strategy"], forced["fallback"]) == (strategy, None)
    assert_same(as_arrays([forced], 10), wanted)


def test_an_engine_that_cannot_run_here_is_a_503(http, stub, truth) -> None:
    response = http.post("/v1/recommend", json={"history": [], "strategy": "tensorrt"})
    assert response.status_code == 503
    assert "tensorrt" in response.json()["error"]["message"]
    with pytest.raises(grpc.RpcError) as caught:
        over_grpc(stub, v2_request([[]], binary=True, strategy="tensorrt"))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_user_with_fewer_items_is_padded(http) -> None:
    found = over_json(http, v2_request([[], []], binary=False, k=60))
    assert found["items"].shape == (2, 60)
    assert found["counts"].tolist() == [50, 50]
    assert (found["items"][:, 50:] == -1).all()
    assert not found["scores"][:, 50:].any()


def test_known_users_over_v2(http) -> None:
    made = tensor("user_id", [1, 2], "INT64", binary=False)
    found = over_json(http, InferRequest("tiny", [made], request_id="x", parameters={"k": 2}))
    for row, user in enumerate([1, 2]):
        answer = http.post("/v1/recommend", json={"user_id": user, "k": 2}).json()
        assert found["items"][row].tolist() == [i["item_id"] for i in answer["items"]]


def test_requested_outputs(http, stub, truth) -> None:
    history = truth.events_json(5)
    names = ["counts", "items"]
    assert list(over_json(http, v2_request([history], binary=False, outputs=names))) == names
    assert set(over_binary(http, v2_request([history], binary=True, outputs=names))) == set(names)
    assert set(over_grpc(stub, v2_request([history], binary=True, outputs=names))) == set(names)


def test_v2_says_what_it_did(http, truth) -> None:
    body, _ = v2_request([truth.events_json(40, seed=24)], binary=False).to_rest()
    del body["id"]
    http.post("/v2/models/tiny/infer", json=body)
    answer = http.post("/v2/models/tiny/infer", json=body).json()
    assert answer["id"]
    assert len(answer["model_version"]) == 12
    assert answer["parameters"] == {"strategy": "vllm", "cached_events": 31}


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "text/plain"]
)
def test_content_types(http, content_type) -> None:
    headers = {"content-type": content_type}
    instances = json.dumps({"instances": [{"history": []}]})
    assert http.post("/v1/models/tiny:predict", content=instances, headers=headers).is_success
    assert http.post("/v1/recommend", content='{"history": []}', headers=headers).is_success
    if content_type != "text/plain":
        body, _ = v2_request([[]], binary=False).to_rest()
        answer = http.post("/v2/models/tiny/infer", content=json.dumps(body), headers=headers)
        assert answer.is_success, answer.text


def test_health_and_metadata(http, stub) -> None:
    for path in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/v2"):
        assert http.get(path).status_code == 200, path
    assert http.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert http.get("/v1/models").json() == {"models": ["tiny"]}
    metadata = http.get("/v2/models/tiny").json()
    assert [o["name"] for o in metadata["outputs"]] == [
        "items", "scores", "engagement", "retention", "counts",
    ]  # fmt: skip
    assert stub.ServerReady(ServerReadyRequest()).ready
    assert stub.ModelReady(ModelReadyRequest(name="tiny")).ready
    assert stub.ModelMetadata(ModelMetadataRequest(name="tiny")).inputs[0].name == "history_items"


def test_stats(http) -> None:
    stats = http.get("/v1/stats").json()
    assert stats["model"]["dataset"] == "tiny"
    assert stats["model"]["items"] == 50
    assert set(stats["model"]["tasks"]) == {"engagement", "retention"}
    assert stats["model"]["unlabelled_tasks"] == {
        "monetization": "the shop does not tell its prices"
    }
    assert stats["strategies"]["default"] == "auto"
    assert stats["strategies"]["started"][0] == "vllm"
    assert "tensorrt" in stats["strategies"]["unavailable"]
    assert stats["users"]["dataset"] == 2
    assert stats["users"]["store"] == "memory"
    before = stats["requests"]["answered"]["total"]
    http.post("/v1/recommend", json={"history": []})
    after = http.get("/v1/stats").json()["requests"]
    assert after["answered"]["total"] == before + 1
    assert after["latency_ms"]["p95"] > 0
    cache = stats["engines"]["vllm"]["item_cache"]
    assert (cache["state"], cache["start"], cache["problem"]) == ("on", "popularity", "")


def test_metrics(http) -> None:
    http.post("/v1/recommend", json={"history": []})
    http.post("/v1/recommend", json={"history": 3})
    text = http.get("/metrics").text
    hits = re.search(r'genrec_item_cache_hits_total{version="\w+"} (\S+)', text)
    assert hits is not None
    assert float(hits[1]) > 0
    assert 'genrec_item_cache_problem{version="' in text
    assert 'genrec_request_seconds_count{strategy="vllm",surface="rest",version="' in text
    for stage in ("queue", "features", "engine", "answer"):
        assert f'genrec_stage_seconds_count{{stage="{stage}",version="' in text
    assert "genrec_queue_users 0.0" in text
    assert "genrec_running_users 0.0" in text
    assert 'genrec_request_errors_total{kind="request",surface="rest"}' in text
    assert 'genrec_history_events_total{found="cache",version="' in text


def test_the_openapi_page_shows_the_schemas(http) -> None:
    assert "swagger" in http.get("/docs").text
    paths = http.get("/openapi.json").json()["paths"]
    operation = paths["/v1/recommend"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert {"history", "user_id", "k", "allow", "deny", "now", "strategy"} <= set(
        schema["properties"]
    )
    assert schema["additionalProperties"] is False
    event = schema["properties"]["history"]["anyOf"][0]["items"]
    assert event["required"] == ["item_id", "action", "timestamp"]
    assert "/v1/rank" in paths
    assert "/v1/models/{model_name}:predict" in paths
    assert "/v2/models/{model_name}/infer" in paths


def test_the_repository_is_closed(http, stub) -> None:
    for verb in ("load", "unload"):
        assert http.post(f"/v2/repository/models/tiny/{verb}").status_code == 403
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelUnload(RepositoryModelUnloadRequest(model_name="tiny"))
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert http.get("/readyz").status_code == 200


def test_only_this_machine_is_listened_to(server) -> None:
    port = int(server.base_url.rsplit(":", 1)[1])
    with open("/proc/net/tcp") as table:
        local = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert f"0100007F:{port:04X}" in local
    assert f"00000000:{port:04X}" not in local
