"""Errors as HTTP answers and gRPC statuses.

The REST API answers ``{"error": {"field": ..., "message": ...}}``. KServe's protocols define
``error`` as a string, so there it is ``"field: message"``.
"""

from __future__ import annotations

import logging
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from grpc import StatusCode
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

from genrec_model.errors import EngineError, RequestError
from genrec_serving.schemas import path

logger = logging.getLogger(__name__)

_KSERVE_STATUS: dict[type[Exception], int] = {
    InvalidInput: 400,
    ModelNotFound: 404,
    InferenceError: 500,
    NotImplementedError: 501,
    UnsupportedProtocol: 501,
    ModelNotReady: 503,
    ServerNotLive: 503,
    ServerNotReady: 503,
}
_GRPC_STATUS = {404: StatusCode.NOT_FOUND, 403: StatusCode.PERMISSION_DENIED}


def add_error_handlers(app: FastAPI) -> None:
    """Answer every exception as the module's description says."""
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(EngineError, _engine_error)
    for kind in _KSERVE_STATUS:
        app.add_exception_handler(kind, _kserve_error)
    app.add_exception_handler(Exception, _internal_error)


def error_response(request: Request, status: int, field: str, message: str) -> Response:
    """The answer to a request that failed."""
    error: Any = {"field": field, "message": message}
    if request.url.path.startswith(("/v1/models", "/v2")):
        error = f"{field}: {message}"
    return Response(orjson.dumps({"error": error}), status, media_type="application/json")


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    message = str(error).removeprefix(f"{error.field}: ")
    return error_response(request, error.status, error.field, message)


async def _validation_error(request: Request, error: Exception) -> Response:
    """FastAPI's own complaint about a V2 body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The body is one of two types to FastAPI, and it names the type in the path.
    where = [part for part in first["loc"] if part not in {"body", "InferenceRequest", "bytes"}]
    return error_response(request, 400, path(where) or "body", str(first["msg"]))


async def _engine_error(request: Request, error: Exception) -> Response:
    logger.warning("%s: %s", request.url.path, error)
    return error_response(request, 503, "engine", str(error))


async def _kserve_error(request: Request, error: Exception) -> Response:
    status = next(code for kind, code in _KSERVE_STATUS.items() if isinstance(error, kind))
    field = "model" if isinstance(error, (ModelNotFound, ModelNotReady)) else "body"
    return error_response(request, status, field, str(error))


async def _internal_error(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    return error_response(request, 500, "server", f"internal error ({type(error).__name__})")


class StatusInterceptor(ExceptionToStatusInterceptor):
    """The same errors as gRPC statuses."""

    async def handle_exception(
        self, ex: Exception, request_or_iterator: Any, context: Any, method_name: str
    ) -> None:
        """Called for every exception that leaves a method."""
        if isinstance(ex, RequestError):
            status = _GRPC_STATUS.get(ex.status, StatusCode.INVALID_ARGUMENT)
            await context.abort(status, str(ex))
        elif isinstance(ex, (EngineError, ModelNotReady, ServerNotReady)):
            await context.abort(StatusCode.UNAVAILABLE, str(ex))
        elif isinstance(ex, InvalidInput):
            await context.abort(StatusCode.INVALID_ARGUMENT, str(ex))
        elif isinstance(ex, ModelNotFound):
            await context.abort(StatusCode.NOT_FOUND, str(ex))
        else:
            await super().handle_exception(ex, request_or_iterator, context, method_name)
