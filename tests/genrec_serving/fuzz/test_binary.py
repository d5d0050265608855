"""Damaged V2 binary bodies, damaged protobufs, and bytes that are no protocol at all."""

from __future__ import annotations

import socket

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kserve import InferInput, InferRequest

from genrec_serving.local_server import LocalModelServer

from .conftest import FUZZ, STUCK_S, assert_no_fault

pytestmark = pytest.mark.slow

NOW = 1_700_000_000
BINARY_HEADER = "inference-header-content-length"
METHOD = "/inference.GRPCInferenceService/"
#: Of a client's mistake, of a method that needs something else, and of what is not offered.
CLIENT_FAULTS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


def damaged(valid: bytes) -> st.SearchStrategy[bytes]:
    """The bytes cut off, with some of them replaced, or with others in between."""
    places = st.integers(0, len(valid) - 1)
    replaced = st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)

    def replace(changes: list[tuple[int, int]]) -> bytes:
        out = bytearray(valid)
        for place, value in changes:
            out[place] = value
        return bytes(out)

    return st.one_of(
        places.map(lambda n: valid[:n]),
        replaced.map(replace),
        st.tuples(places, st.binary(min_size=1, max_size=9)).map(
            lambda change: valid[: change[0]] + change[1] + valid[change[0] :]
        ),
        st.binary(max_size=60),
    )


def valid_request() -> InferRequest:
    """Two events of one user."""
    columns = {
        "history_items": ("INT64", np.array([[1000, 1001]])),
        "history_actions": ("BYTES", np.array([["view", "buy"]], object)),
        "history_timestamps": ("INT64", np.array([[NOW - 9, NOW - 8]])),
        "history_lengths": ("INT64", np.array([2])),
    }
    inputs = []
    for name, (datatype, array) in columns.items():
        tensor = InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array, binary_data=True)
        inputs.append(tensor)
    return InferRequest("tiny", inputs, request_id="r", parameters={"k": 2, "now": NOW})


BODY, HEADER_LENGTH = valid_request().to_rest()
PROTOBUF = valid_request().to_grpc().SerializeToString()


@given(
    body=damaged(BODY),
    length=st.one_of(st.just(str(HEADER_LENGTH)), st.integers(-9, 999).map(str), st.text("0x- ")),
)
@FUZZ
def test_binary_bodies(server, body, length) -> None:
    headers = {BINARY_HEADER: length.strip(), "content-type": "application/octet-stream"}
    url = f"{server.base_url}/v2/models/tiny/infer"
    response = httpx.post(url, content=body, headers=headers, timeout=STUCK_S)
    assert_no_fault(response.status_code, response.text)


def call(server: LocalModelServer, method: str, message: bytes) -> grpc.StatusCode:
    with grpc.insecure_channel(server.grpc_url) as channel:
        method = channel.unary_unary(METHOD + method)
        try:
            method(message, timeout=STUCK_S)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@given(damaged(PROTOBUF))
@FUZZ
def test_protobufs(server, message) -> None:
    assert call(server, "ModelInfer", message) in {grpc.StatusCode.OK, *CLIENT_FAULTS}


@given(
    st.sampled_from(["ModelMetadata", "ModelReady", "ServerReady", "RepositoryModelLoad", "No"]),
    st.binary(max_size=20),
)
@FUZZ
def test_other_methods(server, method, message) -> None:
    assert call(server, method, message) in {grpc.StatusCode.OK, *CLIENT_FAULTS}


@given(garbage=st.binary(min_size=1, max_size=200), http=st.booleans())
@FUZZ
def test_bytes_that_are_no_protocol(server, garbage, http) -> None:
    url = server.base_url.removeprefix("http://") if http else server.grpc_url
    host, port = url.split(":")
    with socket.create_connection((host, int(port)), timeout=STUCK_S) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while more := connection.recv(4096):
                answer += more
        except ConnectionResetError:
            return
        assert not http or not answer or answer.startswith(b"HTTP/1.1 4"), answer
