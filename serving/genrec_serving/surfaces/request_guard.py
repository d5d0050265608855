"""What is done to every HTTP request before KServe or FastAPI see it.

It gets an id, has to show the token, is read whole within bounds of size and time, and is given up
when its client hangs up.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from opentelemetry.trace import INVALID_SPAN, Span
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec_model.errors import ConfigError, RequestError
from genrec_serving.ids import new_id
from genrec_serving.surfaces.error_responses import error_body
from genrec_serving.surfaces.request_context import CONTEXT, RequestContext
from genrec_serving.surfaces.tokens import Tokens
from genrec_serving.telemetry.tracing import is_tracing, request_span

logger = logging.getLogger("genrec_serving.access")

REQUEST_ID = b"x-request-id"
TIMEOUT = b"x-request-timeout-ms"
MAX_TIMEOUT_MS = 600_000
#: Paths for which no token is needed: probes and Prometheus.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"})
_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")


@dataclass(frozen=True, kw_only=True)
class HttpLimits:
    """Bounds of a request.

    Args:
        body_bytes: of a body; by default far above the largest request that the limits on events
            and candidates allow.
        body_s: seconds in which a body has to arrive.

    Raises:
        ConfigError: a limit makes no sense.
    """

    body_bytes: int = 32 << 20
    body_s: float = 30.0

    def __post_init__(self) -> None:
        if self.body_bytes < 1 or self.body_s <= 0:
            raise ConfigError(f"HTTP limits: {self} makes no sense: give more than 0")


class RequestGuard:
    """See the module's description.

    It also tells KServe about content types that it does not know: KServe compares the whole
    header with ``application/json``, so that a charset makes it treat JSON as an unknown format.

    Args:
        app: the application behind it.
        limits: of a request.
        tokens: that a request may show; None where anybody may ask.
        access_log: whether every request leaves a line.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: HttpLimits | None = None,
        tokens: Tokens | None = None,
        access_log: bool = False,
    ) -> None:
        self._app = app
        self._limits = limits or HttpLimits()
        self._tokens = tokens
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400, 401, 408 or 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        given = headers.get(REQUEST_ID, b"")
        request_id = given if _ID.fullmatch(given) else new_id().encode()
        status, unset = 0, CONTEXT.set(None)

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        try:
            try:
                context = RequestContext(
                    request_id=request_id.decode(), timeout_s=_timeout_s(headers)
                )
                CONTEXT.set(context)
                self._check_token(scope["path"], headers)
                body = await self._read(receive, headers)
            except RequestError as error:
                await _refuse(send_with_id, scope["path"], error)
                return
            if body is not None:
                scope = {**scope, "headers": [(n, _plain_json(n, v)) for n, v in scope["headers"]]}
                with _request_span(scope, context) as span:
                    await self._pass_on(scope, body, receive, send_with_id)
                    span.set_attribute("http.response.status_code", status)
        finally:
            if self._access_log:
                _log(scope, status, time.perf_counter() - started)
            CONTEXT.reset(unset)

    def _check_token(self, path: str, headers: dict[bytes, bytes]) -> None:
        if self._tokens is None or path in OPEN_PATHS:
            return
        if not self._tokens.allow(headers.get(b"authorization", b"")):
            raise RequestError(
                "show a token that is valid here, as 'Bearer ...'",
                field="authorization",
                status=401,
            )

    async def _read(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes | None:
        """The whole body; None where the client hangs up before."""
        most = self._limits.body_bytes
        too_large = RequestError(f"is larger than {most} bytes", field="body", status=413)
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            raise RequestError(
                f"did not arrive within {self._limits.body_s:g} s", field="body", status=408
            ) from error

    async def _pass_on(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Let the application answer, and stop it when nobody waits for that any more."""
        given = hung_up = False
        answering = asyncio.current_task()
        assert answering is not None

        async def receive_body() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the client is listened to below
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def listen() -> None:
            # All of the body was read, so that the next message is that the client is gone.
            nonlocal hung_up
            await receive()
            hung_up = True
            answering.cancel()

        listening = asyncio.ensure_future(listen())
        try:
            await self._app(scope, receive_body, send)
        except asyncio.CancelledError:
            # Unless somebody else wants this to end, too.
            if not hung_up or answering.uncancel():
                raise
        finally:
            listening.cancel()


def _request_span(scope: Scope, context: RequestContext) -> AbstractContextManager[Span]:
    if not is_tracing() or scope["path"] in OPEN_PATHS:
        return nullcontext(INVALID_SPAN)
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    attributes = {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "genrec.request_id": context.request_id,
    }
    return request_span(f"{scope['method']} {scope['path']}", headers, attributes)


def _timeout_s(headers: dict[bytes, bytes]) -> float | None:
    given = headers.get(TIMEOUT)
    if given is None:
        return None
    if len(given) > 6 or not given.isdigit() or not 1 <= int(given) <= MAX_TIMEOUT_MS:
        raise RequestError(
            f"give whole milliseconds, 1 to {MAX_TIMEOUT_MS}", field=TIMEOUT.decode(), status=400
        )
    return int(given) / 1000


async def _refuse(send: Send, path: str, error: RequestError) -> None:
    # The body may not have been read, so that the connection cannot be used again.
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    body = error_body(path, error.field, error.message)
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _log(scope: Scope, status: int, seconds: float) -> None:
    fields = {
        "method": scope["method"],
        "path": scope["path"],
        "status": status,  # 0 where the client was gone before an answer
        "ms": round(seconds * 1e3, 3),
    }
    logger.info("%(method)s %(path)s %(status)d %(ms).1f ms", fields, extra=fields)


def _plain_json(name: bytes, value: bytes) -> bytes:
    is_json = value.split(b";")[0].strip().lower() == b"application/json"
    return b"application/json" if name == b"content-type" and is_json else value
