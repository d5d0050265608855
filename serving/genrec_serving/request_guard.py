"""What is done to every HTTP request before KServe or FastAPI see it."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genrec_model.errors import RequestError

#: Far above the largest request that the limits on events and candidates allow.
MAX_BODY_BYTES = 32 << 20


class RequestGuard:
    """Bounds the size of bodies, and tells KServe about content types that it does not know.

    KServe compares the whole header with ``application/json``, so that a charset makes it treat
    JSON as an unknown format.

    Args:
        app: the application behind it.
        max_bytes: of a body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = [(name, _plain_json(name, value)) for name, value in scope["headers"]]
        announced = dict(headers).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._max_bytes:
            await self._refuse(send)
            return
        received = 0

        async def bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                # Sent in chunks, without a length; the application's error handler answers.
                raise RequestError(self._too_large, field="body", status=413)
            return message

        await self._app({**scope, "headers": headers}, bounded, send)

    @property
    def _too_large(self) -> str:
        return f"is larger than {self._max_bytes >> 20} MiB"

    async def _refuse(self, send: Send) -> None:
        error: Any = {"error": {"field": "body", "message": self._too_large}}
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(error)})


def _plain_json(name: bytes, value: bytes) -> bytes:
    is_json = value.split(b";")[0].strip().lower() == b"application/json"
    return b"application/json" if name == b"content-type" and is_json else value
