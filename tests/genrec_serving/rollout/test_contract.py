"""The traffic's half of the contract against the server's own half."""

from __future__ import annotations

import json
from typing import Any

import pytest

from genrec_serving.requests import Answer, ScoredItem
from genrec_serving.rollout.golden import parse_answer, read_golden, request_body, score_error
from genrec_serving.surfaces.schemas import RecommendBody, answer_to_dict, parse_json


def test_requests_are_what_the_rest_api_takes(golden: list[dict[str, Any]]) -> None:
    for request in read_golden(golden):
        body = parse_json(RecommendBody, json.dumps(request_body(request)).encode())
        assert body.query().k == request.k


def test_answers_are_what_the_rest_api_gives(golden: list[dict[str, Any]]) -> None:
    expected = read_golden(golden)[0].expected
    items = [
        ScoredItem(
            item_id=int(item),
            title="a",
            score=expected.scores[place],
            tasks={task: values[place] for task, values in expected.tasks.items()},
        )
        for place, item in enumerate(expected.items)
    ]
    answer = Answer(
        items=items,
        model_name="genrec",
        model_version="8",
        strategy="torch",
        history_events=1,
        cached_events=0,
    )
    served, version = parse_answer(json.loads(json.dumps(answer_to_dict(answer))))
    assert (version, score_error(expected, served)) == ("8", pytest.approx(0))
