"""Tokens that requests show."""

from __future__ import annotations

import hmac
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
from grpc import StatusCode, aio

from genrec_model.errors import ConfigError

#: gRPC methods for which no token is needed: probes.
_OPEN_METHODS = ("/ServerLive", "/ServerReady", "/ModelReady")


class Tokens:
    """Valid tokens; only their hashes are kept, so that none can be shown by mistake.

    Args:
        path: file with one token a line: two while they are exchanged for one another.

    Raises:
        ConfigError: it cannot be read, or has no token.
    """

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise ConfigError(f"{path}: no file of tokens ({error.strerror})") from error
        tokens = [line.strip() for line in lines if line.strip()]
        if not tokens:
            raise ConfigError(f"{path}: has no token; write one a line")
        self._digests = [sha256(token).digest() for token in tokens]

    def allow(self, authorization: bytes) -> bool:
        """Whether that header shows a valid token; takes as long for every wrong one."""
        scheme, _, token = authorization.partition(b" ")
        digest = sha256(token.strip()).digest()
        matches = [hmac.compare_digest(digest, valid) for valid in self._digests]
        return scheme.lower() == b"bearer" and any(matches)


class TokenInterceptor(aio.ServerInterceptor):  # type: ignore[misc, unused-ignore]
    """Lets only calls with a valid token in."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._refusal = grpc.unary_unary_rpc_method_handler(_refuse)

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """Called by gRPC for every call."""
        metadata = dict(handler_call_details.invocation_metadata or ())
        shown = str(metadata.get("authorization", "")).encode()
        is_open = handler_call_details.method.endswith(_OPEN_METHODS)
        if is_open or self._tokens.allow(shown):
            return await continuation(handler_call_details)
        return self._refusal


async def _refuse(_: Any, context: Any) -> None:
    await context.abort(
        StatusCode.UNAUTHENTICATED, "authorization: show a token that is valid here"
    )
