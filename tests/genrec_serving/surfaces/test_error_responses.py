"""Every kind of error as HTTP and gRPC say it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grpc import StatusCode
from kserve.errors import InvalidInput, ModelNotFound, ModelNotReady, UnsupportedProtocol

from genrec_model.errors import (
    EngineError,
    EngineRestarting,
    EngineUnavailable,
    Overloaded,
    RequestError,
    StoreError,
)
from genrec_serving.surfaces.error_responses import (
    StatusInterceptor,
    error_answer,
    place,
    retry_after,
)

BUSY = Overloaded("too many", status=429, retry_after_s=2.5)
LATE = Overloaded("too late", status=503, retry_after_s=0.0)
DYING = EngineRestarting("it died", retry_after_s=4.0)
ERRORS: list[tuple[Exception, int, str, float | None, StatusCode]] = [
    (RequestError("no", field="k"), 422, "k", None, StatusCode.INVALID_ARGUMENT),
    (RequestError("no", field="u", status=404), 404, "u", None, StatusCode.NOT_FOUND),
    (RequestError("no", field="r", status=403), 403, "r", None, StatusCode.PERMISSION_DENIED),
    (BUSY, 429, "server", 2.5, StatusCode.RESOURCE_EXHAUSTED),
    (LATE, 503, "server", 0.0, StatusCode.UNAVAILABLE),
    (EngineError("it failed"), 503, "engine", 1.0, StatusCode.UNAVAILABLE),
    (DYING, 503, "engine", 4.0, StatusCode.UNAVAILABLE),
    (EngineUnavailable("none here"), 503, "engine", None, StatusCode.UNAVAILABLE),
    (StoreError("gone"), 503, "store", 1.0, StatusCode.UNAVAILABLE),
    (ModelNotReady("m"), 503, "model", None, StatusCode.UNAVAILABLE),
    (ModelNotFound("m"), 404, "model", None, StatusCode.NOT_FOUND),
    (InvalidInput("x"), 400, "body", None, StatusCode.INVALID_ARGUMENT),
]


class Context:
    """Of a gRPC call: remembers how it was ended."""

    async def abort(self, code: StatusCode, message: str) -> None:
        self.ended = (code, message)


@pytest.mark.parametrize(("error", "status", "field", "again_s", "code"), ERRORS)
async def test_errors(error, status, field, again_s, code) -> None:
    answer = error_answer("/v1/recommend", error)
    assert (answer.status, answer.retry_after_s) == (status, again_s)
    assert json.loads(answer.body)["error"]["field"] == field
    # KServe's protocols say it as one text.
    answer = error_answer("/v2/models/tiny/infer", error)
    assert json.loads(answer.body)["error"].startswith(f"{field}: ")
    context = Context()
    await StatusInterceptor().handle_exception(error, None, context, "ModelInfer")
    assert context.ended[0] == code
    assert context.ended[1]


def test_other_errors() -> None:
    assert error_answer("/v2", UnsupportedProtocol("x")).status == 404
    answer = error_answer("/v1/rank", ZeroDivisionError("secret"))
    assert answer.status == 500
    assert b"secret" not in answer.body


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (1.0, "1"), (1.2, "2"), (60, "60")])
def test_retry_after_is_whole_seconds(seconds: Any, header: str) -> None:
    assert retry_after(seconds) == header


def test_places() -> None:
    assert place(("inputs", 3, "name")) == "inputs[3].name"
    assert place((0, "x")) == "[0].x"
