"""Errors as HTTP answers and gRPC statuses.

The REST API answers ``{"error": {"field": ..., "message": ...}}``. KServe's protocols define
``error`` as a string, so there it is ``"field: message"``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio
from kserve.errors import (
    InferenceError,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerNotLive,
    ServerNotReady,
    UnsupportedProtocol,
)
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor

from genrec_model.errors import (
    EngineError,
    EngineRestarting,
    EngineUnavailable,
    Overloaded,
    RequestError,
    StoreError,
)

logger = logging.getLogger(__name__)

_KSERVE_STATUS: dict[type[Exception], int] = {
    InvalidInput: 400,
    ModelNotFound: 404,
    InferenceError: 500,
    NotImplementedError: 404,
    UnsupportedProtocol: 404,
    ModelNotReady: 503,
    ServerNotLive: 503,
    ServerNotReady: 503,
}
_GRPC_STATUS = {404: StatusCode.NOT_FOUND, 403: StatusCode.PERMISSION_DENIED}


class ErrorAnswer(NamedTuple):
    """An error as HTTP says it.

    status: of the answer.
    body: JSON.
    retry_after_s: when to try again, for errors that pass.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception as the module's description says."""
    kinds = (RequestError, RequestValidationError, EngineError, StoreError, Overloaded)
    for kind in (*kinds, *_KSERVE_STATUS, Exception):
        app.add_exception_handler(kind, _handle)


async def _handle(request: Request, error: Exception) -> Response:
    status, body, retry_after_s = error_answer(request.url.path, error)
    response = Response(body, status, media_type="application/json")
    if retry_after_s is not None:
        response.headers["retry-after"] = retry_after(retry_after_s)
    return response


def error_answer(path: str, error: Exception) -> ErrorAnswer:
    """The answer to a request that failed.

    Args:
        path: of the request's URL.
        error: any.
    """
    retry_after_s = None
    if isinstance(error, RequestError):
        status, field, message = error.status, error.field, error.message
    elif isinstance(error, RequestValidationError):
        # FastAPI's own complaint. The V2 body is one of two types to it, named in the place.
        first = error.errors()[0]
        skipped = {"body", "path", "query", "InferenceRequest", "bytes"}
        where = [part for part in first["loc"] if part not in skipped]
        status, field, message = 400, place(where) or "body", str(first["msg"])
    elif isinstance(error, Overloaded):
        status, field, message = error.status, "server", str(error)
        retry_after_s = error.retry_after_s
    elif isinstance(error, (EngineError, StoreError)):
        if not isinstance(error, EngineRestarting):  # said once, by the one who starts it
            logger.warning("%s: %s", path, error)
        status, field = 503, "store" if isinstance(error, StoreError) else "engine"
        message = str(error)
        if not isinstance(error, EngineUnavailable):  # which stays so
            retry_after_s = getattr(error, "retry_after_s", 1.0)
    elif isinstance(error, tuple(_KSERVE_STATUS)):
        status = next(code for kind, code in _KSERVE_STATUS.items() if isinstance(error, kind))
        field = "model" if isinstance(error, (ModelNotFound, ModelNotReady)) else "body"
        message = str(error)
    else:
        logger.error("%s failed", path, exc_info=error)
        status, field = 500, "server"
        message = f"internal error ({type(error).__name__})"
    return ErrorAnswer(status, error_body(path, field, message), retry_after_s)


def error_body(path: str, field: str, message: str) -> bytes:
    """JSON of an error, in the form of the protocol that the path belongs to."""
    error: Any = {"field": field, "message": message}
    if path.startswith(("/v1/models", "/v2")):
        error = f"{field}: {message}"
    return orjson.dumps({"error": error})


def place(location: Sequence[int | str]) -> str:
    """``("inputs", 3, "name")`` as ``inputs[3].name``."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def retry_after(seconds: float) -> str:
    """The header's value: whole seconds, at least 1."""
    return str(max(math.ceil(seconds), 1))


class StatusInterceptor(ExceptionToStatusInterceptor):
    """The same errors as gRPC statuses."""

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str
    ) -> None:
        """Called for every exception that leaves a method."""
        if isinstance(ex, RequestError):
            status = _GRPC_STATUS.get(ex.status, StatusCode.INVALID_ARGUMENT)
            await context.abort(status, str(ex))
        elif isinstance(ex, Overloaded) and ex.status == 429:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, str(ex))
        elif isinstance(ex, (EngineError, StoreError, Overloaded, ModelNotReady, ServerNotReady)):
            await context.abort(StatusCode.UNAVAILABLE, str(ex))
        elif isinstance(ex, InvalidInput):
            await context.abort(StatusCode.INVALID_ARGUMENT, str(ex))
        elif isinstance(ex, ModelNotFound):
            await context.abort(StatusCode.NOT_FOUND, str(ex))
        else:
            await super().handle_exception(ex, request_or_iterator, context, method_name)


class ReadableInterceptor(aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Says what a message is that cannot be read; gRPC would call it an unknown error."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Called by gRPC for every call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler

        def read(message: bytes) -> Any:
            try:
                return handler.request_deserializer(message)
            except DecodeError:
                return None

        async def answer(request: Any, context: Any) -> Any:
            if request is None:
                await context.abort(StatusCode.INVALID_ARGUMENT, "the message cannot be read")
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)
