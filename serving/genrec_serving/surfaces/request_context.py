"""What belongs to one request wherever it is being worked on: its id and its deadline."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """One request.

    Args:
        request_id: the client's, or ours.
        timeout_s: seconds that the client waits; None where it does not say.
    """

    request_id: str
    timeout_s: float | None = None


#: Of the running task; None outside of requests.
CONTEXT: ContextVar[RequestContext | None] = ContextVar("genrec_request", default=None)
