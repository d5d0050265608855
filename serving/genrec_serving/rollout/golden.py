"""Golden requests as a client sends them, and how far an answer is from the offline one.

Everything that depends on the JSON of ``/v1/recommend`` is in `request_body` and `parse_answer`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genrec_model.errors import ArtifactError

#: Distance of an answer that lacks an item which the offline ranking has.
MISSING = 1.0


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Items, best first, with their task probabilities.

    Args:
        items: ids as text: JSON clients disagree on the type of an id.
        scores: next-item scores, best first; what the answer calls ``score``.
        tasks: task to probabilities, one an item.
    """

    items: tuple[str, ...]
    scores: tuple[float, ...]
    tasks: Mapping[str, tuple[float, ...]]

    @property
    def probabilities(self) -> tuple[float, ...]:
        """All task probabilities."""
        return tuple(value for values in self.tasks.values() for value in values)


@dataclass(frozen=True, kw_only=True)
class GoldenRequest:
    """A request with the answer that plain PyTorch gave it.

    Args:
        user_id: whose history it is.
        now: unix seconds.
        k: items asked for.
        history: ``item_id``, ``action``, ``timestamp`` of each event.
        expected: the offline answer.
    """

    user_id: str
    now: int
    k: int
    history: tuple[Mapping[str, Any], ...]
    expected: Ranking

    @property
    def key(self) -> str:
        """Names the question: golden files of two versions agree on it, not on the answer."""
        return json.dumps([self.now, self.k, self.history], default=str)


def read_golden(values: Iterable[Mapping[str, Any]]) -> tuple[GoldenRequest, ...]:
    """The requests of a ``golden.json``.

    Raises:
        ArtifactError: a field is missing or of another type.
    """
    try:
        return tuple(
            GoldenRequest(
                user_id=str(value["user_id"]),
                now=int(value["now"]),
                k=int(value["k"]),
                history=tuple(dict(event) for event in value["history"]),
                expected=Ranking(
                    items=tuple(str(item) for item in value["expected"]["items"]),
                    scores=tuple(float(score) for score in value["expected"]["scores"]),
                    tasks={
                        task: tuple(float(score) for score in scores)
                        for task, scores in value["expected"]["tasks"].items()
                    },
                ),
            )
            for value in values
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"golden requests cannot be read: {error!r}") from error


def request_body(request: GoldenRequest) -> dict[str, Any]:
    """JSON of ``POST /v1/recommend``."""
    return {"history": list(request.history), "k": request.k, "now": request.now}


def parse_answer(body: Any) -> tuple[Ranking, str | None]:
    """Ranking and model version of an answer of ``/v1/recommend``.

    Raises:
        ValueError: something is missing, of a wrong type, or not a finite number.
    """
    try:
        entries = body["items"]
        names = list(entries[0]["tasks"]) if entries else []
        ranking = Ranking(
            items=tuple(str(entry["item_id"]) for entry in entries),
            scores=tuple(float(entry["score"]) for entry in entries),
            tasks={name: tuple(float(entry["tasks"][name]) for entry in entries) for name in names},
        )
        version = body.get("model", {}).get("version")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the answer is not one of /v1/recommend: {error!r}") from error
    for name, values in (("score", ranking.scores), *ranking.tasks.items()):
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"the answer has a {name} that is not a finite number")
    return ranking, None if version is None else str(version)


def score_error(expected: Ranking, served: Ranking) -> float:
    """Largest distance of a served task probability from its offline twin.

    An item that the answer lacks counts as `MISSING`; but where its offline next-item score lies
    just above that of the last item, an equally good item may stand in its place, and it counts
    as that small difference of scores.
    """
    place = {item: index for index, item in enumerate(served.items)}
    missing_tasks = set(expected.tasks) - set(served.tasks)
    if missing_tasks or len(served.items) < len(expected.items):
        return MISSING
    worst = 0.0
    for index, item in enumerate(expected.items):
        found = place.get(item)
        if found is None:
            worst = max(worst, min(expected.scores[index] - expected.scores[-1], MISSING))
            continue
        for task, values in expected.tasks.items():
            worst = max(worst, abs(values[index] - served.tasks[task][found]))
    return worst


def by_question(requests: Sequence[GoldenRequest]) -> dict[str, Ranking]:
    """Offline answers by the question, see `GoldenRequest.key`."""
    return {request.key: request.expected for request in requests}
