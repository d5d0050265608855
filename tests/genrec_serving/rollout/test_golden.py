from __future__ import annotations

import json
from typing import Any

import pytest

from genrec_model.errors import ArtifactError
from genrec_serving.rollout.golden import (
    MISSING,
    Ranking,
    parse_answer,
    read_golden,
    request_body,
    score_error,
)

OFFLINE = Ranking(items=("1", "2", "3"), scores=(3.0, 2.0, 1.9999), tasks={"e": (0.9, 0.8, 0.7)})


def served(items: tuple[str, ...], tasks: tuple[float, ...]) -> Ranking:
    return Ranking(items=items, scores=(1.0,) * len(items), tasks={"e": tasks})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (OFFLINE, 0.0),
        (served(("2", "1", "3"), (0.8, 0.9, 0.7)), 0.0),
        (served(("1", "2", "3"), (0.9, 0.8, 0.71)), 0.01),
        (served(("1", "3", "9"), (0.9, 0.7, 0.1)), 0.0001),  # 2 was as good as 3
        (served(("2", "3", "9"), (0.8, 0.7, 0.1)), MISSING),
        (served(("1", "2"), (0.9, 0.8)), MISSING),
        (Ranking(items=("1", "2", "3"), scores=(1, 1, 1), tasks={}), MISSING),
    ],
)
def test_score_error(answer: Ranking, error: float) -> None:
    assert score_error(OFFLINE, answer) == pytest.approx(error)


def entry(**changes: Any) -> dict[str, Any]:
    return {"item_id": 1, "title": "a", "score": 1.5, "tasks": {"e": 0.5}, **changes}


def test_parse_answer() -> None:
    body = {"items": [entry(), entry(item_id="b")], "model": {"name": "m", "version": 3}}
    ranking, version = parse_answer(body)
    assert (ranking.items, ranking.tasks["e"], version) == (("1", "b"), (0.5, 0.5), "3")
    assert parse_answer({"items": []})[0].items == ()


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"items": 3},
        {"items": [{}]},
        {"items": [entry(score=None)]},
        {"items": [entry(score=float("nan"))]},
        {"items": [entry(tasks={"e": float("inf")})]},
        {"items": [entry(), entry(tasks={})]},
        {"items": [entry()], "model": 3},
    ],
)
def test_what_is_no_answer(body: Any) -> None:
    with pytest.raises(ValueError, match="the answer"):
        parse_answer(body)


def test_golden_requests(golden: list[dict[str, Any]]) -> None:
    requests = read_golden(golden)
    assert requests[3].user_id == "3"
    body = request_body(requests[3])
    assert json.loads(json.dumps(body)) == {
        "history": golden[3]["history"],
        "k": 5,
        "now": 1_700_000_003,
    }
    assert len({request.key for request in requests}) == len(requests)
    with pytest.raises(ArtifactError, match="expected"):
        read_golden([{key: value for key, value in golden[0].items() if key != "expected"}])
