"""Bodies of the REST API, and of an instance of KServe's V1 protocol.

Types are strict: ``"3"`` and ``true`` are no numbers, and a name that is not known is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

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
from genrec_serving.strategy import Strategy
from genrec_serving.users.events import MAX_APPEND, MAX_ID_LENGTH, UserEvent


def _item_id(value: Any) -> int | str:
    # As a union of two strict types, an error would be at `item_id.int` and `item_id.str`.
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("id", "an id is an integer or a string")


Id = Annotated[
    int | str,
    PlainValidator(_item_id),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string"}]}),
]
Seconds = Annotated[int, Field(description="unix seconds")]


class Body(BaseModel):
    """Strict, and closed."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class Event(Body):
    """Something that the user did."""

    item_id: Id
    action: str = Field(description="an action of the data set, see /v1/stats")
    timestamp: Seconds
    value: float | None = Field(None, description="rating or spend; accepted, not used")


class QueryBody(Body):
    """What all requests have."""

    history: list[Event] | None = Field(
        None,
        description=f"the user's events, oldest first, at most {MAX_EVENTS}; may be empty",
    )
    user_id: Id | None = Field(None, description="instead of history: a user the server knows")
    now: Seconds | None = Field(None, description="when items would be shown; by default now")
    strategy: Strategy | None = Field(None, description="force an engine")

    @property
    def events(self) -> Events | None:
        """The history as the recommender takes it."""
        if self.history is None:
            return None
        return Events(
            item_ids=[event.item_id for event in self.history],
            actions=[event.action for event in self.history],
            timestamps=[event.timestamp for event in self.history],
        )


class RecommendBody(QueryBody):
    """The best items of the catalogue for a user."""

    k: int = Field(10, description=f"most items to give, 1 to {MAX_K}")
    exclude_seen: bool | None = Field(
        None, description="leave out items of the history; by default as the data set says"
    )
    allow: list[Id] | None = Field(None, description="the only items to consider")
    deny: list[Id] = Field([], description="items to leave out")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "history": [{"item_id": 1000, "action": "view", "timestamp": 1700000000}],
                "k": 3,
            }
        }
    )

    def query(self) -> RecommendQuery:
        """For the recommender."""
        return RecommendQuery(
            history=self.events,
            user_id=self.user_id,
            now=self.now,
            strategy=self.strategy,
            k=self.k,
            exclude_seen=self.exclude_seen,
            allow=self.allow,
            deny=self.deny,
        )


class RankBody(QueryBody):
    """Scores of given items for a user."""

    candidates: list[Id] = Field(description=f"1 to {MAX_CANDIDATES} different items")
    order_by: str | None = Field(
        None, description="a task, or score; by default the model's first task"
    )

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "history": [{"item_id": 1000, "action": "view", "timestamp": 1700000000}],
                "candidates": [1001, 1002],
            }
        }
    )

    def query(self) -> RankQuery:
        """For the recommender."""
        return RankQuery(
            history=self.events,
            user_id=self.user_id,
            now=self.now,
            strategy=self.strategy,
            candidates=self.candidates,
            order_by=self.order_by,
        )


class AppendedEvent(Event):
    """Something that the user did, to be kept."""

    event_id: str = Field(
        description=f"chosen by the client, 1 to {MAX_ID_LENGTH} characters: to send it again is "
        "safe"
    )
    value: float | None = Field(None, description="rating or spend; kept, not used")


class AppendBody(Body):
    """Events of one user, in any order; at least once is enough."""

    events: list[AppendedEvent] = Field(description=f"1 to {MAX_APPEND} events")

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "events": [
                    {"event_id": "a1", "item_id": 1000, "action": "view", "timestamp": 1700000000}
                ]
            }
        }
    )

    def user_events(self) -> list[UserEvent]:
        """For the store."""
        return [UserEvent(**event.model_dump()) for event in self.events]


class AppendedBody(BaseModel):
    """What became of the events. They are safe now."""

    user_id: str
    accepted: int
    duplicates: int = Field(description="kept before, by their ids")
    too_old: int = Field(description="not kept: events of their time were dropped already")
    unknown_items: int = Field(description="of items that the model does not know yet")
    held: int = Field(description="events of the user that are kept now")


class UserBody(BaseModel):
    """What is held of a user."""

    user_id: str
    held: int = Field(description="appended events")
    dataset_events: int = Field(description="further events, from the data set")
    events: list[AppendedEvent] = Field(description="the latest appended ones, oldest first")


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
    timings_ms: dict[str, float]


class ErrorDetail(BaseModel):
    """What is wrong, and where."""

    field: str
    message: str


class ErrorBody(BaseModel):
    """An error of the REST API."""

    error: ErrorDetail


AnyBody = TypeVar("AnyBody", bound=Body)


def parse_json(model: type[AnyBody], body: bytes) -> AnyBody:
    """A JSON body.

    Raises:
        RequestError: it is not JSON (400), or not such a body (422).
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise request_error(error) from error


def parse_value(model: type[AnyBody], value: Any) -> AnyBody:
    """The same for JSON that is already parsed."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise request_error(error) from error


def request_error(error: ValidationError) -> RequestError:
    """The first of pydantic's complaints as ours."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return RequestError(first["msg"], field="body", status=400)
    return RequestError(first["msg"], field=path(first["loc"]) or "body")


def path(location: Sequence[int | str]) -> str:
    """``("history", 3, "item_id")`` as ``history[3].item_id``."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def answer_to_dict(answer: Answer) -> dict[str, Any]:
    """An answer as `AnswerBody` describes it, without the cost of building one."""
    return {
        "items": [
            {
                "item_id": item.item_id,
                "title": item.title,
                "score": item.score,
                "tasks": item.tasks,
            }
            for item in answer.items
        ],
        "model": {"name": answer.model_name, "version": answer.model_version},
        "strategy": answer.strategy,
        "fallback": answer.fallback,
        "history_events": answer.history_events,
        "cached_events": answer.cached_events,
        "timings_ms": answer.timings_ms,
    }
