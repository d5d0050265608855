"""What a user of the recommender asks, and what they get: the same for every surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from genrec_model.features.vocabulary import ItemId
from genrec_serving.users.events import Kept
from genrec_serving.users.user_event import UserEvent

#: Most events of a history, and entries of an allow or deny list.
MAX_EVENTS = 16_384
MAX_CANDIDATES = 1000
MAX_K = 1000
#: Events that tell the histories of two users apart.
_FIRST_EVENTS = 8
#: How far the clock of a client may be ahead.
MAX_AHEAD_S = 86_400
#: Order of a ranking by next-item score, instead of a task.
BY_SCORE = "score"


@dataclass(frozen=True, kw_only=True)
class Events:
    """A history, oldest event first; the columns have one length, which may be 0."""

    item_ids: Sequence[ItemId]
    actions: Sequence[str]
    timestamps: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Query:
    """What all requests have.

    Args:
        history: the user's events; or
        user_id: a user whose events the server knows. Exactly one of the two is needed.
        events: new events of that user, kept before the request is answered; None for none.
        now: unix seconds, when the items would be shown; the server's clock by default.
        strategy: engine to use; the server's default where None.
    """

    history: Events | None = None
    user_id: ItemId | None = None
    events: Sequence[UserEvent] | None = None
    now: int | None = None
    strategy: str | None = None

    def known_by(self) -> bytes:
        """What the user is known by in all their requests: their id, or how their history began."""
        if self.history is None:
            return str(self.user_id).encode()
        first = slice(_FIRST_EVENTS)
        return repr((self.history.item_ids[first], self.history.timestamps[first])).encode()


@dataclass(frozen=True, kw_only=True)
class RecommendQuery(Query):
    """The best items of the catalogue.

    Args:
        k: most items to give.
        exclude_seen: whether to leave out all items of the history; as the data set says where
            None.
        allow: the only items to consider; all where None.
        deny: items to leave out.
    """

    k: int = 10
    exclude_seen: bool | None = None
    allow: Sequence[ItemId] | None = None
    deny: Sequence[ItemId] = ()


@dataclass(frozen=True, kw_only=True)
class RankQuery(Query):
    """Scores of given items.

    Args:
        candidates: items, each once.
        order_by: a task, or ``score`` for the next-item score; the model's first task where None.
    """

    candidates: Sequence[ItemId]
    order_by: str | None = None


class ScoredItem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One item of an answer.

    Args:
        score: next-item logit: how well the item continues the history. Comparable between
            recommendations and rankings of one user.
        tasks: probability of each task that the model has.
    """

    item_id: ItemId
    title: str
    score: float
    tasks: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the recommender found.

    Args:
        items: best first; fewer than asked for where the filters leave fewer.
        strategy: engine that was used.
        fallback: why it is not the preferred one; None where it is.
        history_events: events of the history that the model saw.
        cached_events: of these, those that were not computed again.
        kept: what became of the events that the request brought; None where it brought none.
        timings_ms: milliseconds by stage, and `total`.
    """

    items: Sequence[ScoredItem]
    model_name: str
    model_version: str
    strategy: str
    fallback: str | None = None
    history_events: int
    cached_events: int
    kept: Kept | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
