"""One request through every surface of a model server: do they all answer, and alike?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np

from genrec_model.errors import EngineError
from genrec_serving.local_server import LocalModelServer
from genrec_serving.rollout.golden import GoldenRequest, request_body

if TYPE_CHECKING:
    from kserve import InferRequest, InferResponse

#: Largest difference between two surfaces' scores.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class SurfaceAnswer:
    """What a surface answered: HTTP status (200 for a gRPC OK), best item, all scores."""

    status: int
    top_item: str
    scores: tuple[float, ...]


def check_surfaces(server: LocalModelServer, request: GoldenRequest) -> dict[str, dict[str, Any]]:
    """Ask ``rest``, ``v1``, ``v2``, ``v2_binary`` and ``grpc`` the same question.

    Returns:
        For each surface its `SurfaceAnswer` as a dictionary.

    Raises:
        EngineError: a surface fails, or two disagree by more than `TOLERANCE`.
    """
    answers = asyncio.run(_ask_all(server, request))
    expected = answers["rest"]
    for name, answer in answers.items():
        if len(answer.scores) != len(expected.scores):
            raise EngineError(
                f"surface {name} gave {len(answer.scores)} items, rest gave {len(expected.scores)}"
            )
        worst = float(np.abs(np.subtract(answer.scores, expected.scores)).max(initial=0))
        if not worst <= TOLERANCE:
            raise EngineError(f"surface {name} differs from rest by {worst:.1e} in a score")
    return {name: asdict(answer) for name, answer in answers.items()}


async def _ask_all(server: LocalModelServer, request: GoldenRequest) -> dict[str, SurfaceAnswer]:
    body = request_body(request)
    model = f"/models/{server.model_name}"
    async with httpx.AsyncClient(base_url=server.base_url, timeout=60) as client:
        rest = await _post(client, "/v1/recommend", body)
        v1 = await _post(client, f"/v1{model}:predict", {"instances": [body]})
    answers = {
        "rest": _from_items(rest["items"]),
        "v1": _from_items(v1["predictions"][0]["items"]),
    }
    for name in ("v2", "v2_binary", "grpc"):
        try:
            answers[name] = await _ask_v2(server, request, name)
        # The clients raise httpx, gRPC and KServe errors without a common base.
        except Exception as error:
            raise EngineError(f"surface {name} failed: {error}") from error
    return answers


async def _post(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> Any:
    try:
        response = await client.post(path, json=body)
    except httpx.HTTPError as error:
        raise EngineError(f"{path} did not answer: {error!r}") from error
    if response.status_code != httpx.codes.OK:
        raise EngineError(f"{path} answered {response.status_code}: {response.text[:200]}")
    return response.json()


def _from_items(items: list[Mapping[str, Any]]) -> SurfaceAnswer:
    return SurfaceAnswer(
        status=200,
        top_item=str(items[0]["item_id"]) if items else "",
        scores=tuple(float(item["score"]) for item in items),
    )


async def _ask_v2(server: LocalModelServer, request: GoldenRequest, surface: str) -> SurfaceAnswer:
    from kserve import InferenceGRPCClient, InferenceRESTClient, RESTConfig

    question = _v2_request(server.model_name, request, surface)
    if surface == "grpc":
        client = InferenceGRPCClient(server.grpc_url)
        try:
            return _from_v2(await client.infer(question, timeout=60))
        finally:
            await client.close()
    rest = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    try:
        return _from_v2(await rest.infer(server.base_url, question, model_name=server.model_name))
    finally:
        await rest.close()


def _v2_request(model: str, request: GoldenRequest, surface: str) -> InferRequest:
    from kserve import InferInput, InferRequest
    from kserve.protocol.infer_type import RequestedOutput

    events = request.history
    integers = all(isinstance(event["item_id"], int) for event in events)
    items = np.array([[event["item_id"] for event in events]], np.int64 if integers else object)
    arrays = {
        "history_items": items,
        "history_actions": np.array([[event["action"] for event in events]], object),
        "history_timestamps": np.array([[event["timestamp"] for event in events]], np.int64),
        "history_lengths": np.array([len(events)], np.int64),
    }
    inputs = []
    for name, array in arrays.items():
        kind = "INT64" if array.dtype == np.int64 else "BYTES"
        tensor = InferInput(name, list(array.shape), kind)
        tensor.set_data_from_numpy(array, binary_data=surface != "v2")
        inputs.append(tensor)
    outputs = ("items", "scores")
    return InferRequest(
        model,
        inputs,
        request_id="surface-check",
        parameters={"k": request.k, "now": request.now},
        request_outputs=[RequestedOutput(o, parameters={"binary_data": True}) for o in outputs]
        if surface == "v2_binary"
        else None,
    )


def _from_v2(response: InferResponse) -> SurfaceAnswer:
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    top = outputs["items"].ravel()[0]
    return SurfaceAnswer(
        status=200,
        top_item=top.decode() if isinstance(top, bytes) else str(top),
        scores=tuple(float(score) for score in outputs["scores"].ravel()),
    )
