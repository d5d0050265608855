"""A weighted HTTP splitter in front of two servers: the laptop's twin of a mesh's traffic split.

Sticky by user: a user is in the canary when the hash of the user lies below the canary's share.
So a growing share only ever moves users from the stable arm to the canary.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from genrec_model.errors import ConfigError

if TYPE_CHECKING:
    import httpx
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

logger = logging.getLogger(__name__)

Arm = Literal["stable", "canary"]

USER_HEADER = "X-User-Id"
ARM_HEADER = "X-Genrec-Arm"
VERSION_HEADER = "X-Genrec-Version"
HEALTH_PATH = "/-/health"

_BUCKETS = 10_000
_USER_PATH = re.compile(r"^/v1/users/([^/]+)")
_BODY_PATHS = ("/v1/recommend", "/v1/rank")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
#: Headers of one connection, which a proxy does not pass on (RFC 9110, 7.6.1), and those that
#: it states anew.
_NOT_PASSED = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A server behind the splitter.

    Args:
        base_url: ``http://host:port``.
        version: of the model that it serves, as the registry names it.
    """

    base_url: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Who answers. Replaced as a whole, so that no request sees half a change.

    Args:
        stable, canary: at least one of them.
        canary_percent: share of the users at the canary, 0 to 100; counts only where both are.
        salt: another salt draws other users into the canary.

    Raises:
        ConfigError: there is no server, or the share is out of range.
    """

    stable: Backend | None
    canary: Backend | None
    canary_percent: float = 0
    salt: str = ""

    def __post_init__(self) -> None:
        if self.stable is None and self.canary is None:
            raise ConfigError("splitter: give it a stable server, a canary, or both")
        if not 0 <= self.canary_percent <= 100:
            raise ConfigError(f"splitter: canary_percent is {self.canary_percent}, not 0 to 100")

    def choose(self, user: str) -> tuple[Arm, Backend]:
        """Arm and server of a user."""
        if self.canary is not None and (
            self.stable is None or bucket(user, self.salt) < self.canary_percent / 100 * _BUCKETS
        ):
            return "canary", self.canary
        assert self.stable is not None
        return "stable", self.stable


@dataclass(kw_only=True)
class ArmCounter:
    """What passed through one arm since the start.

    Args:
        requests: all of them.
        errors: those answered with a status of 500 or more, or not at all.
    """

    requests: int = 0
    errors: int = 0


def bucket(user: str, salt: str = "") -> int:
    """Bucket of a user, 0 to 9999; the same in every process."""
    digest = hashlib.blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _BUCKETS


def user_key(path: str, headers: Mapping[str, str], body: bytes) -> str:
    """What a request is sticky by.

    The ``X-User-Id`` header; else the user in the path or in the body of ``/v1/recommend`` and
    ``/v1/rank``; else the body itself, so that equal requests meet the same arm.
    """
    named = headers.get(USER_HEADER)
    if named:
        return named
    in_path = _USER_PATH.match(path)
    if in_path is not None:
        return in_path[1]
    if path in _BODY_PATHS:
        try:
            values = json.loads(body)
        except (ValueError, RecursionError):
            values = None
        user = values.get("user_id") if isinstance(values, dict) else None
        if isinstance(user, str | int) and not isinstance(user, bool):
            return str(user)
    return hashlib.blake2b(body, digest_size=16).hexdigest()


class Splitter:
    """An ASGI application that passes each request to one of two servers.

    A server that does not answer is a 502 in JSON; the splitter itself goes on. Requests and
    answers are read in chunks, whole, up to a limit: what a client gets is complete or an error.

    Args:
        routing: at the start; see `set_canary_percent`.
        timeout_s: for one answer of a server.
        max_request_bytes: larger requests are refused with 413.
        max_response_bytes: larger answers are refused with 502.
    """

    def __init__(
        self,
        routing: Routing,
        *,
        timeout_s: float = 30.0,
        max_request_bytes: int = 4 << 20,
        max_response_bytes: int = 16 << 20,
    ) -> None:
        self.routing = routing
        self.counters: dict[Arm, ArmCounter] = {"stable": ArmCounter(), "canary": ArmCounter()}
        self._timeout_s = timeout_s
        self._max_request_bytes = max_request_bytes
        self._max_response_bytes = max_response_bytes
        self._client: httpx.AsyncClient | None = None
        self.app = self._application()

    def set_canary_percent(self, percent: float) -> None:
        """Change the canary's share, for all requests that come from now on.

        Raises:
            ConfigError: not 0 to 100.
        """
        self.routing = replace(self.routing, canary_percent=percent)

    def health(self) -> dict[str, Any]:
        """Routing and counters, as the health endpoint shows them."""
        routing = self.routing
        backends: dict[Arm, Backend | None] = {"stable": routing.stable, "canary": routing.canary}
        return {
            "status": "ok",
            "canary_percent": routing.canary_percent,
            "arms": {
                arm: {
                    "version": backend.version,
                    "base_url": backend.base_url,
                    "requests": self.counters[arm].requests,
                    "errors": self.counters[arm].errors,
                }
                for arm, backend in backends.items()
                if backend is not None
            },
        }

    def _application(self) -> Starlette:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def health(_: Request) -> Response:
            return JSONResponse(self.health())

        return Starlette(
            routes=[
                Route(HEALTH_PATH, health),
                Route("/{path:path}", self._pass_on, methods=_METHODS),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        import httpx

        # Servers of this machine are never reached through a proxy: trust_env is off.
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        async with httpx.AsyncClient(
            timeout=self._timeout_s, limits=limits, trust_env=False
        ) as client:
            self._client = client
            yield
        self._client = None

    async def _pass_on(self, request: Request) -> Response:
        import httpx
        from starlette.responses import Response

        body = await _read(request.stream(), self._max_request_bytes)
        if body is None:
            return _problem(413, f"the request has more than {self._max_request_bytes} bytes")
        user = user_key(request.url.path, request.headers, body)
        arm, backend = self.routing.choose(user)
        counter = self.counters[arm]
        counter.requests += 1
        labels = {ARM_HEADER: arm, VERSION_HEADER: backend.version}
        assert self._client is not None, "the application's lifespan has not begun"
        try:
            outgoing = self._client.build_request(
                request.method,
                _target(backend, request),
                headers=_passed(request.headers.items()),
                content=body,
            )
            answer = await self._client.send(outgoing, stream=True)
            try:
                content = await _read(answer.aiter_bytes(), self._max_response_bytes)
            finally:
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            counter.errors += 1
            logger.warning("%s (version %s): %r", arm, backend.version, error)
            reason = str(error) or type(error).__name__
            return _problem(502, f"the {arm} server does not answer: {reason}", labels)
        if content is None:
            counter.errors += 1
            limit = self._max_response_bytes
            return _problem(502, f"the {arm} server's answer has more than {limit} bytes", labels)
        if answer.status_code >= 500:
            counter.errors += 1
        passed = Response(content, status_code=answer.status_code)
        for name, value in _passed(answer.headers.multi_items()):
            passed.headers.append(name, value)
        for name, value in labels.items():
            passed.headers[name] = value
        return passed


async def _read(chunks: AsyncIterator[bytes], limit: int) -> bytes | None:
    """All the chunks, or None as soon as they exceed `limit` bytes."""
    read = bytearray()
    async for chunk in chunks:
        read += chunk
        if len(read) > limit:
            return None
    return bytes(read)


def _target(backend: Backend, request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    path = raw.split(b"?")[0].decode("ascii", "replace")
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{backend.base_url.rstrip('/')}{path}{query}"


def _passed(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers if name.lower() not in _NOT_PASSED]


def _problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": message}, status_code=status, headers=dict(headers or {}))
