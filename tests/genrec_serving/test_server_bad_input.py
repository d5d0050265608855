"""Everything that a client can do wrong: a 4xx that names the field, and the server goes on."""

import json
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

pytestmark = pytest.mark.slow

NOW = 1_700_000_000
EVENT = {"item_id": 1000, "action": "view", "timestamp": NOW - 9}
FUTURE = 4_000_000_000


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.base_url, timeout=60) as client:
        yield client
        # After all that: it still answers.
        assert client.post("/v1/recommend", json={"history": [EVENT]}).status_code == 200


@pytest.fixture(scope="module")
def stub(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield GRPCInferenceServiceStub(channel)


def event(**changes: Any) -> dict[str, Any]:
    return {**EVENT, **changes}


#: Body, field, status.
BAD_USERS: list[tuple[Any, str, int]] = [
    ({}, "history", 422),
    ({"history": [EVENT], "user_id": 1}, "user_id", 422),
    ({"user_id": 99}, "user_id", 404),
    ({"user_id": True}, "user_id", 422),
    ({"user_id": 1.5}, "user_id", 422),
    ({"user_id": [1]}, "user_id", 422),
    ({"history": None}, "history", 422),
    ({"history": "x"}, "history", 422),
    ({"history": {}}, "history", 422),
    ({"history": [3]}, "history[0]", 422),
    ({"history": [EVENT, {"item_id": 1000}]}, "history[1].action", 422),
    ({"history": [event(item_id=5)]}, "history[0].item_id", 422),
    ({"history": [event(item_id="1000")]}, "history[0].item_id", 422),
    ({"history": [event(item_id=True)]}, "history[0].item_id", 422),
    ({"history": [event(item_id=1000.0)]}, "history[0].item_id", 422),
    ({"history": [event(item_id=None)]}, "history[0].item_id", 422),
    ({"history": [event(item_id=10**30)]}, "history[0].item_id", 422),
    ({"history": [event(action="sniff")]}, "history[0].action", 422),
    ({"history": [event(action=0)]}, "history[0].action", 422),
    ({"history": [event(timestamp="now")]}, "history[0].timestamp", 422),
    ({"history": [event(timestamp=1.5)]}, "history[0].timestamp", 422),
    ({"history": [event(timestamp=True)]}, "history[0].timestamp", 422),
    ({"history": [event(timestamp=-1)]}, "history[0].timestamp", 422),
    ({"history": [event(timestamp=FUTURE)]}, "history[0].timestamp", 422),
    ({"history": [event(timestamp=10**30)]}, "history[0].timestamp", 422),
    ({"history": [EVENT, event(timestamp=5)]}, "history[1].timestamp", 422),
    ({"history": [event(value="much")]}, "history[0].value", 422),
    ({"history": [event(extra=1)]}, "history[0].extra", 422),
    ({"history": [EVENT] * 16_385}, "history", 422),
    ({"history": [], "now": "today"}, "now", 422),
    ({"history": [], "now": True}, "now", 422),
    ({"history": [], "now": -5}, "now", 422),
    ({"history": [], "now": 10**30}, "now", 422),
    ({"history": [], "strategy": "magic"}, "strategy", 422),
    ({"history": [], "unknown": 1}, "unknown", 422),
]
BAD_RECOMMENDATIONS: list[tuple[Any, str, int]] = [
    ({"k": 0}, "k", 422),
    ({"k": -1}, "k", 422),
    ({"k": 1001}, "k", 422),
    ({"k": True}, "k", 422),
    ({"k": 2.0}, "k", 422),
    ({"k": "3"}, "k", 422),
    ({"k": None}, "k", 422),
    ({"exclude_seen": 1}, "exclude_seen", 422),
    ({"allow": []}, "allow", 422),
    ({"allow": ["none of these"]}, "allow", 422),
    ({"allow": 3}, "allow", 422),
    ({"deny": [1.5]}, "deny[0]", 422),
]
BAD_RANKINGS: list[tuple[Any, str, int]] = [
    ({"candidates": []}, "candidates", 422),
    ({"candidates": None}, "candidates", 422),
    ({"candidates": [1000, 5]}, "candidates[1]", 422),
    ({"candidates": [1000, True]}, "candidates[1]", 422),
    ({"candidates": [1000, 1000]}, "candidates[1]", 422),
    ({"candidates": list(range(1001))}, "candidates", 422),
    ({"candidates": [1000], "order_by": "fame"}, "order_by", 422),
    ({"candidates": [1000], "k": 3}, "k", 422),
]


def assert_rest(response: httpx.Response, field: str, status: int) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["field"] == field
    assert error["message"]


def assert_v1(response: httpx.Response, field: str, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.json()["error"].startswith(f"instances[0].{field}: ")


@pytest.mark.parametrize(("body", "field", "status"), BAD_USERS)
def test_users(http, body, field, status) -> None:
    assert_rest(http.post("/v1/recommend", json=body), field, status)
    ranking = {**body, "candidates": [1000]}
    assert_rest(http.post("/v1/rank", json=ranking), field, status)
    for instance in (body, ranking):
        answer = http.post("/v1/models/tiny:predict", json={"instances": [instance]})
        assert_v1(answer, field, status)


@pytest.mark.parametrize(("change", "field", "status"), BAD_RECOMMENDATIONS)
def test_recommendations(http, change, field, status) -> None:
    body = {"history": [EVENT], **change}
    assert_rest(http.post("/v1/recommend", json=body), field, status)
    answer = http.post("/v1/models/tiny:predict", json={"instances": [body]})
    assert_v1(answer, field, status)


@pytest.mark.parametrize(("change", "field", "status"), BAD_RANKINGS)
def test_rankings(http, change, field, status) -> None:
    body = {"history": [EVENT], **change}
    assert_rest(http.post("/v1/rank", json=body), field, status)
    answer = http.post("/v1/models/tiny:predict", json={"instances": [body]})
    assert_v1(answer, field, status)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b'{"history": [{"item_id": NaN, "action": "view", "timestamp": 1}]}',
        b'{"history": [{"item_id": 1000, "action": "view", "timestamp": NaN}]}',
        b'{"history": [{"item_id": 1000, "action": "view", "timestamp": 1, "value": NaN}]}',
        b'{"history": [{"item_id": 1000, "action": "view", "timestamp": Infinity}]}',
        b'{"history": [' * 2000,
    ],
)
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rank"])
def test_bodies_that_are_no_request(http, path, body) -> None:
    response = http.post(path, content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}, response.text
    assert response.json()["error"]["field"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"\xff\xfe",
        b"{}",
        b'{"instances": 3}',
        b'{"instances": []}',
        b'{"instances": [3]}',
        b'{"instances": [[]]}',
        b'{"instances": [{"history": [NaN]}]}',
        json.dumps({"instances": [{"history": []}] * 257}).encode(),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "image/png"])
def test_v1_bodies_that_are_no_request(http, body, content_type) -> None:
    headers = {"content-type": content_type}
    response = http.post("/v1/models/tiny:predict", content=body, headers=headers)
    assert response.status_code in {400, 422}, response.text
    assert isinstance(response.json()["error"], str)


def test_one_bad_instance_is_named(http) -> None:
    instances = [{"history": []}, {"history": [event(item_id=5)]}]
    response = http.post("/v1/models/tiny:predict", json={"instances": instances})
    assert response.status_code == 422
    assert response.json()["error"].startswith("instances[1].history[0].item_id: item 5")


def v2_body(**changes: Any) -> dict[str, Any]:
    """A right body of two events, with some inputs replaced (None: left out)."""
    inputs = {
        "history_items": ("INT64", [1, 2], [1000, 1001]),
        "history_actions": ("BYTES", [1, 2], ["view", "buy"]),
        "history_timestamps": ("INT64", [1, 2], [NOW - 9, NOW - 8]),
        "history_lengths": ("INT64", [1], [2]),
    }
    parameters = changes.pop("parameters", {})
    extra = changes.pop("extra", {})
    inputs |= changes
    return {
        "inputs": [
            {"name": name, "datatype": made[0], "shape": made[1], "data": made[2]}
            for name, made in inputs.items()
            if made is not None
        ],
        "parameters": parameters,
        **extra,
    }


BAD_TENSORS: list[tuple[dict[str, Any], str]] = [
    ({"history_items": None}, "history_items"),
    ({"history_actions": None}, "history_actions"),
    ({"history_timestamps": None}, "history_timestamps"),
    ({"history_lengths": None}, "history_lengths"),
    ({"something": ("INT64", [1], [1])}, "something"),
    ({"history_items": ("INT64", [2], [1000, 1001])}, "history_items"),
    ({"history_items": ("INT64", [1, 3], [1000, 1001])}, "history_items"),
    ({"history_items": ("INT64", [1, -2], [1000, 1001])}, "history_items"),
    ({"history_items": ("INT64", [], [1000])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, 1001, 1002])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, 1.5])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, None])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, True])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, "1001"])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, 2**80])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [[[1000]], 1])}, "history_items"),
    ({"history_items": ("INT64", [1, 2], [1000, 5])}, "history_items[0,1]"),
    ({"history_items": ("FP32", [1, 2], [1000, 1001])}, "history_items"),
    ({"history_items": ("NONSENSE", [1, 2], [1000, 1001])}, "history_items"),
    ({"history_items": ("BYTES", [1, 2], ["1000", "shoe"])}, "history_items"),
    ({"history_items": ("BYTES", [1, 2], [1000, 1001])}, "history_items"),
    ({"history_items": ("INT64", [0, 2], [])}, "history_items"),
    ({"history_items": ("INT64", [2, 1], [1000, 1001])}, "history_actions"),
    ({"history_actions": ("BYTES", [1, 2], ["view", "sniff"])}, "history_actions[0,1]"),
    ({"history_actions": ("INT64", [1, 2], [0, 2])}, "history_actions[0,1]"),
    ({"history_actions": ("INT64", [1, 2], [-1, 0])}, "history_actions[0,0]"),
    ({"history_timestamps": ("BYTES", [1, 2], ["a", "b"])}, "history_timestamps"),
    ({"history_timestamps": ("INT64", [1, 2], [NOW, NOW - 1])}, "history_timestamps[0,1]"),
    ({"history_timestamps": ("INT64", [1, 2], [NOW, FUTURE])}, "history_timestamps[0,1]"),
    ({"history_lengths": ("INT64", [1], [3])}, "history_lengths[0]"),
    ({"history_lengths": ("INT64", [1], [-1])}, "history_lengths[0]"),
    ({"history_lengths": ("INT64", [2], [1, 1])}, "history_lengths"),
    ({"user_id": ("INT64", [1], [1])}, "history_items"),
    ({"candidates": ("INT64", [2, 1], [1000, 1001])}, "candidates"),
    ({"candidates": ("INT64", [1, 0], [])}, "candidates"),
    ({"candidates": ("INT64", [1, 2], [1000, 5])}, "candidates[0,1]"),
    ({"candidates": ("INT64", [1, 2], [1000, 1000])}, "candidates[0,1]"),
    ({"candidates": ("INT64", [1, 1001], list(range(1001)))}, "candidates"),
    ({"parameters": {"k": 0}}, "parameters.k"),
    ({"parameters": {"k": 1001}}, "parameters.k"),
    ({"parameters": {"k": "3"}}, "parameters.k"),
    ({"parameters": {"k": True}}, "parameters.k"),
    ({"parameters": {"now": -1}}, "parameters.now"),
    ({"parameters": {"strategy": "magic"}}, "parameters.strategy"),
    ({"parameters": {"order_by": "score"}}, "parameters.order_by"),
    ({"parameters": {"what": 1}}, "parameters.what"),
    ({"extra": {"outputs": [{"name": "fame"}]}}, "outputs.fame"),
]


@pytest.mark.parametrize(("change", "field"), BAD_TENSORS)
def test_v2_tensors(http, change, field) -> None:
    response = http.post("/v2/models/tiny/infer", json=v2_body(**change))
    assert response.status_code == 400, response.text
    assert response.json()["error"].startswith(f"{field}")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b"{}",
        b'{"inputs": 3}',
        b'{"inputs": []}',
        b'{"inputs": [3]}',
        b'{"inputs": [{"name": "history_items"}]}',
        b'{"inputs": [], "parameters": []}',
    ],
)
def test_v2_bodies_that_are_no_request(http, body) -> None:
    headers = {"content-type": "application/json"}
    response = http.post("/v2/models/tiny/infer", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert isinstance(response.json()["error"], str)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"", "0"),
        (b"{}", "2"),
        (b"{}", "x"),
        (b"{}", "-1"),
        (b"{}", "999"),
        (b"[]", "2"),
        (b'{"inputs": [{}]}', "16"),
        (b"\xff\xff\xff", "3"),
        (b"{}", None),
    ],
)
def test_v2_binary_bodies_that_are_no_request(http, body, length) -> None:
    headers = {"content-type": "application/octet-stream"}
    if length is not None:
        headers["inference-header-content-length"] = length
    response = http.post("/v2/models/tiny/infer", content=body, headers=headers)
    assert response.status_code == 400, response.text


@pytest.mark.parametrize(
    ("name", "datatype", "data"),
    [
        ("history_items", "INT64", b"\0" * 15),
        ("history_items", "INT64", b"\0" * 24),
        ("history_items", "BYTES", b"\x05\0\0\0ab"),
        ("history_items", "BYTES", b"\xff\xff\xff\xff"),
        ("history_actions", "BYTES", b"\x02\0\0\0\xff\xfe" * 2),
        ("history_timestamps", "INT64", b""),
    ],
)
def test_v2_binary_tensors(http, stub, name, datatype, data) -> None:
    body = v2_body()
    for given in body["inputs"]:
        if given["name"] == name:
            del given["data"]
            given["datatype"] = datatype
            given["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps(body).encode()
    response = http.post(
        "/v2/models/tiny/infer",
        content=head + data,
        headers={
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        },
    )
    assert response.status_code == 400, response.text
    raw = {
        "history_items": b"\xe8\x03" + b"\0" * 6 + b"\xe9\x03" + b"\0" * 6,
        "history_actions": b"\x04\0\0\0view" * 2,
        "history_timestamps": b"\x01" + b"\0" * 15,
        "history_lengths": b"\x02" + b"\0" * 7,
        name: data,
    }
    request = ModelInferRequest(model_name="tiny", raw_input_contents=list(raw.values()))
    for given in body["inputs"]:
        request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
    assert_grpc(stub, request, name, grpc.StatusCode.INVALID_ARGUMENT)


def assert_grpc(
    stub: GRPCInferenceServiceStub, request: Any, field: str, code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(request, timeout=30)
    assert caught.value.code() == code, caught.value.details()
    assert caught.value.details().startswith(field)


_CONTENTS = {"INT64": "int64_contents", "BYTES": "bytes_contents", "FP32": "fp32_contents"}


@pytest.mark.parametrize(("change", "field"), BAD_TENSORS)
def test_grpc_tensors(stub, change, field) -> None:
    body = v2_body(**change)
    request = ModelInferRequest(model_name="tiny")
    for given in body["inputs"]:
        try:
            made = request.inputs.add(
                name=given["name"], datatype=given["datatype"], shape=given["shape"]
            )
            data = [v.encode() if isinstance(v, str) else v for v in given["data"]]
            contents = getattr(made.contents, _CONTENTS[given["datatype"]])
            contents.extend(data)
        except (TypeError, ValueError, KeyError):
            pytest.skip("protobuf cannot carry this mistake")
    for name, value in body["parameters"].items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    for output in body.get("outputs", ()):
        request.outputs.add(name=output["name"])
    if any(type(v) is bool for given in body["inputs"] for v in given["data"]):
        pytest.skip("protobuf makes an integer of it")
    assert_grpc(stub, request, field, grpc.StatusCode.INVALID_ARGUMENT)


def test_unknown_users_over_v2(http, stub) -> None:
    inputs = dict.fromkeys(("history_items", "history_actions", "history_timestamps"))
    body = v2_body(**inputs, history_lengths=None, user_id=("INT64", [2], [1, 99]))
    response = http.post("/v2/models/tiny/infer", json=body)
    assert response.status_code == 404
    assert response.json()["error"].startswith("user_id[1]: user 99 is unknown")


def test_unknown_models(http, stub) -> None:
    instances = {"instances": [{"history": []}]}
    assert http.post("/v1/models/other:predict", json=instances).status_code == 404
    assert http.post("/v2/models/other/infer", json=v2_body()).status_code == 404
    assert http.get("/v1/models/other").status_code == 404
    assert http.get("/v2/models/other/ready").status_code == 404
    request = ModelInferRequest(model_name="other")
    assert_grpc(stub, request, "Model with name other", grpc.StatusCode.NOT_FOUND)


def test_what_is_not_offered(http) -> None:
    assert http.post("/v1/models/tiny:explain", json={"instances": []}).status_code == 404
    assert http.get("/v1/recommend").status_code == 405
    assert http.get("/nowhere").status_code == 404
    assert http.post("/v2/models/tiny/versions/3/infer", json=v2_body()).status_code == 404


def test_a_body_that_is_too_large(http) -> None:
    blocks = [b" " * (1 << 20)] * 33
    response = http.post("/v1/recommend", content=b"".join(blocks))
    assert response.status_code == 413
    assert response.json()["error"]["field"] == "body"
    for path in ("/v1/recommend", "/v1/models/tiny:predict"):
        chunked = http.post(path, content=iter(blocks))
        assert chunked.status_code == 413


def test_cloud_events_headers(http) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "content-type": "application/json"}
    response = http.post("/v1/models/tiny:predict", content=b"{}", headers=headers)
    assert 400 <= response.status_code < 500, response.text
