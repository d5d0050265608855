"""Specifications refuse what contradicts itself and survive JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from genrec_model.data.kuairand import KUAIRAND
from genrec_model.data.movielens import HALF_STARS, WHOLE_STARS, movielens_spec
from genrec_model.data.online_retail import ONLINE_RETAIL
from genrec_model.data.spec import TASKS, DatasetSpec, TaskRule, TaskSpec
from genrec_model.errors import ConfigError

MOVIELENS = movielens_spec("ml", "ML", stars=WHOLE_STARS)


@pytest.mark.parametrize("spec", [MOVIELENS, KUAIRAND, ONLINE_RETAIL], ids=lambda s: s.name)
def test_survives_json(spec: DatasetSpec) -> None:
    assert DatasetSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("spec", [MOVIELENS, KUAIRAND, ONLINE_RETAIL], ids=lambda s: s.name)
def test_every_task_is_labelled_or_explained(spec: DatasetSpec) -> None:
    assert {*spec.task_names, *spec.unlabelled} == set(TASKS)
    assert all(spec.unlabelled.values())


def test_a_rating_is_an_action() -> None:
    assert MOVIELENS.actions == ("rated_1", "rated_2", "rated_3", "rated_4", "rated_5")
    halves = movielens_spec("ml", "ML", stars=HALF_STARS).actions
    assert halves[:3] == ("rated_0.5", "rated_1", "rated_1.5")
    assert len(halves) == 10


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "guess"},
        {"kind": "value_at_least"},
        {"kind": "value_at_least", "threshold": float("nan")},
        {"kind": "value_at_least", "threshold": 1.0, "horizon_s": 5},
        {"kind": "action_in"},
        {"kind": "action_in", "actions": ("a",), "threshold": 1.0},
        {"kind": "returns_within", "horizon_s": 5},
        {"kind": "returns_within", "horizon_s": 5, "min_gap_s": 6},
        {"kind": "returns_within", "horizon_s": 5, "min_gap_s": 0},
        {"kind": "spend_at_least", "threshold": 1.0, "min_gap_s": 1},
    ],
)
def test_bad_rules_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="task rule"):
        TaskRule(**fields)


def test_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="'joy' is unknown"):
        TaskSpec(name="joy", rule=MOVIELENS.tasks[0].rule, description="")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": []}, "distinct"),
        ({"actions": ["rated_1", "rated_1"]}, "distinct"),
        ({"unlabelled": {}}, "each of engagement"),
        ({"unlabelled": {"monetization": "none", "retention": "none"}}, "each of engagement"),
        ({"surprise": 1}, "not usable"),
        ({"tasks": [{"name": "engagement"}]}, "not usable"),
    ],
)
def test_bad_specifications_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DatasetSpec.from_dict({**MOVIELENS.to_dict(), **change})


def test_task_with_an_action_that_is_not_there_is_refused() -> None:
    data = KUAIRAND.to_dict()
    data["actions"] = ["impression", "click"]
    with pytest.raises(ConfigError, match="unknown action 'long_view'"):
        DatasetSpec.from_dict(data)
