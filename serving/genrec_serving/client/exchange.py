"""Requests and answers as HTTP has them, for both clients: no input or output happens here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from genrec_model.errors import ConfigError, EngineError, Overloaded, RequestError
from genrec_serving.client.answers import (
    Answer,
    Appended,
    ErrorDetail,
    Event,
    Failed,
    ItemId,
    User,
)

Reply = TypeVar("Reply")
_RETRIED = frozenset({429, 503})


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How a client talks to a server.

    Args:
        token: for servers that want one.
        timeout_s: for one try; the server gives up then too.
        retries: further tries after 429, 503, or no answer at all. Every request may be sent
            again: events have ids.
        longest_wait_s: most seconds to wait before a try, whatever the server asks for.

    Raises:
        ConfigError: a value makes no sense.
    """

    token: str | None = None
    timeout_s: float = 10.0
    retries: int = 2
    longest_wait_s: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s <= 600 or self.retries < 0 or self.longest_wait_s < 0:
            # Without the token.
            raise ConfigError(
                f"client: timeout_s {self.timeout_s}, retries {self.retries}, longest_wait_s "
                f"{self.longest_wait_s}: give a timeout up to 600, and no negative numbers"
            )

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        headers = {"X-Request-Timeout-Ms": str(max(int(self.timeout_s * 1000), 1))}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers


@dataclass(frozen=True, kw_only=True)
class Query:
    """A recommendation, or with candidates a ranking; see the server's OpenAPI page.

    Args:
        user_id: a user whom the server knows; or
        history: their events, oldest first.
        events: with `user_id`: new events, kept before the question is answered; the answer's
            `appended` says what became of them.
        candidates: items to rank.
        k, exclude_seen, allow, deny: of a recommendation.
        order_by: of a ranking.
        now: unix seconds.
        strategy: forces an engine.
    """

    user_id: ItemId | None = None
    history: Sequence[Event] | None = None
    events: Sequence[Event] | None = None
    candidates: Sequence[ItemId] | None = None
    k: int | None = None
    exclude_seen: bool | None = None
    allow: Sequence[ItemId] | None = None
    deny: Sequence[ItemId] | None = None
    order_by: str | None = None
    now: int | None = None
    strategy: str | None = None

    def body(self) -> dict[str, Any]:
        """What is given; events have the same ids in every try of one body."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.events is not None:
            given["events"] = [event.with_id() for event in self.events]
        return given


@dataclass(frozen=True)
class Exchange(Generic[Reply]):
    """One request, and the type of its answer.

    Args:
        user_id: whom it is about, where that is one user.
    """

    method: str
    path: str
    reply: type[Reply]
    body: Any = None
    user_id: ItemId | None = None

    @property
    def headers(self) -> dict[str, str]:
        """So that what stands in front of replicas sends a user to the same one every time."""
        if self.user_id is None:
            return {}
        return {"X-User-Id": quote(str(self.user_id), safe="")}

    @property
    def content(self) -> bytes | None:
        """The body in JSON."""
        return None if self.body is None else msgspec.json.encode(self.body)

    def read(self, response: httpx.Response) -> Reply:
        """The answer.

        Raises:
            RequestError: something in the request is wrong.
            Overloaded: the server takes no more for now.
            EngineError: it cannot answer, or its answer makes no sense.
        """
        if response.status_code != httpx.codes.OK:
            raise _failure(response)
        try:
            return msgspec.json.decode(response.content, type=self.reply)
        except msgspec.MsgspecError as error:
            raise EngineError(f"{self.path}: the answer makes no sense ({error})") from error


class BatchReply(msgspec.Struct):
    """Answers in the order of the requests."""

    answers: list[dict[str, Any]]

    def parts(self) -> list[Answer | Failed]:
        """Each as what it is.

        Raises:
            EngineError: one makes no sense.
        """
        try:
            return [
                msgspec.convert(part, Failed) if "error" in part else msgspec.convert(part, Answer)
                for part in self.answers
            ]
        except msgspec.ValidationError as error:
            raise EngineError(f"/v1/batch: an answer makes no sense ({error})") from error


class _Error(msgspec.Struct):
    error: ErrorDetail


def ask(query: Query) -> Exchange[Answer]:
    """Recommend, or rank where there are candidates."""
    path = "/v1/recommend" if query.candidates is None else "/v1/rank"
    return Exchange("POST", path, Answer, query.body(), query.user_id)


def ask_all(queries: Sequence[Query]) -> Exchange[BatchReply]:
    """Several users at once."""
    body = {"requests": [query.body() for query in queries]}
    return Exchange("POST", "/v1/batch", BatchReply, body)


def append(user_id: ItemId, events: Sequence[Event]) -> Exchange[Appended]:
    """Keep events; the same ids for every try."""
    body = {"events": [event.with_id() for event in events]}
    return Exchange("POST", f"{_user(user_id)}/events", Appended, body, user_id)


def view(user_id: ItemId) -> Exchange[User]:
    """What is held of a user."""
    return Exchange("GET", _user(user_id), User, user_id=user_id)


def forget(user_id: ItemId) -> Exchange[dict[str, Any]]:
    """Forget a user."""
    return Exchange("DELETE", _user(user_id), dict[str, Any], user_id=user_id)


def stats() -> Exchange[dict[str, Any]]:
    """The model, its engines, and what was answered so far."""
    return Exchange("GET", "/v1/stats", dict[str, Any])


def wait_s(connection: Connection, tries: int, response: httpx.Response | None) -> float | None:
    """Seconds until the next try, or None where there is none.

    Args:
        connection: of the client.
        tries: that were made.
        response: the last one; None where the server did not answer.
    """
    if tries > connection.retries:
        return None
    if response is None:
        return min(0.1 * 2.0**tries, connection.longest_wait_s)
    asked = response.headers.get("retry-after")
    # A 503 without that header stays: an engine that this server does not have.
    if response.status_code not in _RETRIED or asked is None or not asked.isdigit():
        return None
    return min(float(asked), connection.longest_wait_s)


def no_answer(error: httpx.TransportError) -> EngineError:
    """The server cannot be reached."""
    return EngineError(f"the server does not answer ({type(error).__name__}: {error})")


def _user(user_id: ItemId) -> str:
    return f"/v1/users/{quote(str(user_id), safe='')}"


def _failure(response: httpx.Response) -> Exception:
    status = response.status_code
    try:
        detail = msgspec.json.decode(response.content, type=_Error).error
    except msgspec.MsgspecError:
        # Not from the server itself, but from something in front of it.
        detail = ErrorDetail(field="server", message=response.text[:200])
    asked = response.headers.get("retry-after", "")
    if asked.isdigit() and (status == 429 or detail.field == "server"):
        return Overloaded(detail.message, status=status, retry_after_s=float(asked))
    if 400 <= status < 500:
        return RequestError(detail.message, field=detail.field, status=status)
    return EngineError(f"{status}: {detail.message}")
