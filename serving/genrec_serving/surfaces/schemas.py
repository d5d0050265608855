"""Bodies of the REST API, and of an instance of KServe's V1 protocol.

What comes in is decoded and checked by msgspec in one step, and the same types describe it on the
OpenAPI page. Types are strict: ``"3"`` and ``true`` are no numbers, and a name that is not known
is an error. What goes out is described for that page only.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field

from genrec_model.errors import RequestError
from genrec_serving.requests import (
    MAX_CANDIDATES,
    MAX_EVENTS,
    MAX_K,
    Answer,
    Events,
    RankQuery,
    RecommendQuery,
)
from genrec_serving.strategies.strategy import Strategy
from genrec_serving.users.events import MAX_APPEND, MAX_ID_LENGTH, Kept
from genrec_serving.users.user_event import UserEvent

#: Most users of one request.
MAX_BATCH = 256

Id = int | str
Seconds = Annotated[int, Meta(description="unix seconds")]


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Strict, and closed."""


class Event(Body, frozen=True, kw_only=True):
    """Something that the user did."""

    item_id: Id
    action: Annotated[str, Meta(description="an action of the data set, see /v1/stats")]
    timestamp: Seconds
    value: Annotated[float | None, Meta(description="rating or spend; accepted, not used")] = None


class AppendedEvent(Event, frozen=True, kw_only=True):
    """Something that the user did, to be kept."""

    event_id: Annotated[
        str,
        Meta(
            description=f"chosen by the client, 1 to {MAX_ID_LENGTH} characters: to send it again "
            "is safe"
        ),
    ]

    def user_event(self) -> UserEvent:
        """For the store."""
        return UserEvent(self.event_id, self.item_id, self.action, self.timestamp, self.value)


class QueryBody(Body, frozen=True, kw_only=True):
    """What all requests have."""

    history: Annotated[
        list[Event] | None,
        Meta(description=f"the user's events, oldest first, at most {MAX_EVENTS}; may be empty"),
    ] = None
    user_id: Annotated[
        Id | None, Meta(description="instead of history: a user the server knows")
    ] = None
    events: Annotated[
        list[AppendedEvent] | None,
        Meta(
            description=f"with user_id: 1 to {MAX_APPEND} new events, kept before the answer is "
            "computed, as /v1/users/{user_id}/events keeps them"
        ),
    ] = None
    now: Annotated[
        int | None, Meta(description="unix seconds, when items would be shown; by default now")
    ] = None
    strategy: Annotated[Strategy | None, Meta(description="force an engine")] = None

    def parts(self) -> dict[str, Any]:
        """Fields of a `Query`."""
        return {
            "history": None if self.history is None else _columns(self.history),
            "user_id": self.user_id,
            "events": None if self.events is None else [e.user_event() for e in self.events],
            "now": self.now,
            "strategy": self.strategy,
        }


class RecommendBody(QueryBody, frozen=True, kw_only=True):
    """The best items of the catalogue for a user."""

    k: Annotated[int, Meta(description=f"most items to give, 1 to {MAX_K}")] = 10
    exclude_seen: Annotated[
        bool | None,
        Meta(description="leave out items of the history; by default as the data set says"),
    ] = None
    allow: Annotated[list[Id] | None, Meta(description="the only items to consider")] = None
    deny: Annotated[list[Id], Meta(description="items to leave out")] = []

    def query(self) -> RecommendQuery:
        """For the recommender."""
        return RecommendQuery(
            **self.parts(),
            k=self.k,
            exclude_seen=self.exclude_seen,
            allow=self.allow,
            deny=self.deny,
        )


class RankBody(QueryBody, frozen=True, kw_only=True):
    """Scores of given items for a user."""

    candidates: Annotated[list[Id], Meta(description=f"1 to {MAX_CANDIDATES} different items")]
    order_by: Annotated[
        str | None, Meta(description="a task, or score; by default the model's first task")
    ] = None

    def query(self) -> RankQuery:
        """For the recommender."""
        return RankQuery(**self.parts(), candidates=self.candidates, order_by=self.order_by)


def _columns(history: list[Event]) -> Events:
    """A history as the recommender takes it."""
    return Events(
        item_ids=[event.item_id for event in history],
        actions=[event.action for event in history],
        timestamps=[event.timestamp for event in history],
    )


class BatchBody(Body, frozen=True, kw_only=True):
    """Requests of several users, answered together."""

    requests: Annotated[
        list[dict[str, Any]],
        Meta(
            description=f"1 to {MAX_BATCH} bodies of /v1/recommend or, with candidates, of /v1/rank"
        ),
    ]


class AppendBody(Body, frozen=True, kw_only=True):
    """Events of one user, in any order; to send them at least once is enough."""

    events: Annotated[list[AppendedEvent], Meta(description=f"1 to {MAX_APPEND} events")]


_EXAMPLE = [{"item_id": 1000, "action": "view", "timestamp": 1700000000}]
_EXAMPLES: dict[type[Body], dict[str, Any]] = {
    RecommendBody: {"history": _EXAMPLE, "k": 3},
    RankBody: {
        "user_id": 1,
        "events": [{"event_id": "a1", **_EXAMPLE[0]}],
        "candidates": [1001, 1002],
    },
    BatchBody: {"requests": [{"user_id": 1, "k": 3}, {"history": [], "candidates": [1001]}]},
    AppendBody: {"events": [{"event_id": "a1", **_EXAMPLE[0]}]},
}


class KeptBody(BaseModel):
    """What became of the events. They are safe now."""

    accepted: int
    duplicates: int = Field(description="kept before, by their ids")
    too_old: int = Field(description="not kept: events of their time were dropped already")
    unknown_items: int = Field(description="of items that the model does not know yet")
    held: int = Field(description="events of the user that are kept now")


class AppendedBody(KeptBody):
    """What became of the events of a user. They are safe now."""

    user_id: str


class UserBody(BaseModel):
    """What is held of a user."""

    user_id: str
    held: int = Field(description="appended events")
    dataset_events: int = Field(description="further events, from the data set")
    events: list[dict[str, Any]] = Field(description="the latest appended ones, oldest first")


class ForgottenBody(BaseModel):
    """Whether something was held of the user; now nothing is."""

    user_id: str
    forgotten: bool


class ScoredItemBody(BaseModel):
    """One item of an answer."""

    item_id: Id
    title: str
    score: float = Field(description="next-item logit")
    tasks: dict[str, float] = Field(description="probability of each task the model has")


class ModelBody(BaseModel):
    """The model that answered."""

    name: str
    version: str


class AnswerBody(BaseModel):
    """Items, best first, and how they were found."""

    model_config = ConfigDict(protected_namespaces=())

    items: list[ScoredItemBody]
    model: ModelBody
    strategy: str = Field(description="engine that was used")
    fallback: str | None = Field(description="why it is not the preferred engine, if it is not")
    history_events: int = Field(description="events that the model saw")
    cached_events: int = Field(description="of these, events that were not computed again")
    appended: KeptBody | None = Field(
        description="what became of the events of the request, if it brought some"
    )
    timings_ms: dict[str, float]


class ErrorDetail(BaseModel):
    """What is wrong, and where."""

    field: str
    message: str


class ErrorBody(BaseModel):
    """An error of the REST API."""

    error: ErrorDetail


class FailedBody(BaseModel):
    """What is wrong with one request of a batch; the others are answered."""

    error: ErrorDetail
    status: Literal[400, 404, 422]


class BatchAnswersBody(BaseModel):
    """An answer for each request, in their order."""

    answers: list[AnswerBody | FailedBody]


#: Writes what `answer_parts` gives, and all that consists of it.
to_json = msgspec.json.Encoder().encode
AnyBody = TypeVar("AnyBody", bound=Body)
#: msgspec's messages: what is wrong, and where.
_COMPLAINT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)


def parse_json(model: type[AnyBody], body: bytes) -> AnyBody:
    """A JSON body.

    Raises:
        RequestError: it is not JSON (400), or not such a body (422).
    """
    try:
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise request_error(error) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise RequestError(str(error), field="body", status=400) from error


def parse_value(model: type[AnyBody], value: Any) -> AnyBody:
    """The same for JSON that is already parsed.

    Raises:
        RequestError: it is not such a body (422).
    """
    try:
        return msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        raise request_error(error) from error


def request_error(error: msgspec.ValidationError) -> RequestError:
    """msgspec's complaint as ours."""
    found = _COMPLAINT.fullmatch(str(error))
    assert found is not None, "everything matches"
    what, where = found["what"], found["where"] or ""
    field = _FIELD.fullmatch(what)
    if field is not None:
        where = f"{where}.{field['name']}" if where else field["name"]
        what = "is missing" if "missing" in what else "is not known"
    return RequestError(what, field=where or "body")


def json_schema(model: type[Body]) -> dict[str, Any]:
    """For the OpenAPI page: its definitions are in place of the references to them."""
    (schema,), definitions = msgspec.json.schema_components([model], ref_template="{name}")

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return inline(definitions[value["$ref"]])
            return {key: inline(part) for key, part in value.items()}
        return [inline(part) for part in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = inline(schema)
    return {**resolved, "example": _EXAMPLES[model]}


def kept_to_dict(kept: Kept) -> dict[str, int]:
    """What became of appended events, as `KeptBody` describes it."""
    return {**kept.appended._asdict(), "unknown_items": kept.unknown_items}


def answer_to_dict(answer: Answer) -> dict[str, Any]:
    """An answer as `AnswerBody` describes it, without the cost of building one."""
    return {**answer_parts(answer), "items": [msgspec.structs.asdict(i) for i in answer.items]}


def answer_to_json(answer: Answer) -> bytes:
    """The same in JSON."""
    return to_json(answer_parts(answer))


def answer_parts(answer: Answer) -> dict[str, Any]:
    """The same with items that only `to_json` can write."""
    return {
        "items": answer.items,
        "model": {"name": answer.model_name, "version": answer.model_version},
        "strategy": answer.strategy,
        "fallback": answer.fallback,
        "history_events": answer.history_events,
        "cached_events": answer.cached_events,
        "appended": None if answer.kept is None else kept_to_dict(answer.kept),
        "timings_ms": answer.timings_ms,
    }
