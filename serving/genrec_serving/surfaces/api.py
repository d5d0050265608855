"""What the plain REST API answers, from bytes to bytes, whichever way a request came."""

from __future__ import annotations

from functools import partial
from typing import Any

from genrec_model.errors import RequestError
from genrec_serving.requests import Answer, RankQuery, RecommendQuery
from genrec_serving.surfaces.front import Front
from genrec_serving.surfaces.schemas import (
    MAX_BATCH,
    BatchBody,
    RankBody,
    RecommendBody,
    answer_parts,
    answer_to_json,
    parse_json,
    parse_value,
    to_json,
)


class RecommendApi:
    """Bodies of ``/v1/recommend``, ``/v1/rank`` and ``/v1/batch``; errors are those of `Front`."""

    def __init__(self, front: Front) -> None:
        self._front = front

    async def recommend(self, body: bytes) -> bytes:
        """The best items of the catalogue."""
        answer = await self._front.ask(lambda: parse_json(RecommendBody, body).query(), "rest")
        return answer_to_json(answer)

    async def rank(self, body: bytes) -> bytes:
        """Scores of given items."""
        answer = await self._front.ask(lambda: parse_json(RankBody, body).query(), "rest")
        return answer_to_json(answer)

    async def batch(self, body: bytes) -> bytes:
        """An answer for each request, or what is wrong with it."""
        requests = parse_json(BatchBody, body).requests
        if not 1 <= len(requests) <= MAX_BATCH:
            raise RequestError(
                f"{len(requests)} requests; 1 to {MAX_BATCH} are allowed", field="requests"
            )
        makers = [partial(make_query, request) for request in requests]
        answers = await self._front.ask_all(makers, "rest")
        return to_json({"answers": [_part(answer) for answer in answers]})


def make_query(body: Any) -> RecommendQuery | RankQuery:
    """A body that asks for a ranking where it has candidates, else for a recommendation.

    Raises:
        RequestError: it is no such body.
    """
    if isinstance(body, dict) and "candidates" in body:
        return parse_value(RankBody, body).query()
    return parse_value(RecommendBody, body).query()


def _part(answer: Answer | RequestError) -> dict[str, Any]:
    if isinstance(answer, Answer):
        return answer_parts(answer)
    return {
        "error": {"field": answer.field, "message": answer.message},
        "status": answer.status,
    }
