"""Options as JSON: every mistake is named."""

from __future__ import annotations

import pytest

from genrec_model.errors import ConfigError
from genrec_model.evaluation.evaluate import EvaluationOptions
from genrec_model.options import parse_options
from genrec_model.training.options import TrainingOptions


def test_what_is_left_out_keeps_its_default() -> None:
    assert parse_options(TrainingOptions, "", "training") == TrainingOptions()
    assert parse_options(TrainingOptions, '{"epochs": 3}', "training").epochs == 3


def test_nested_options() -> None:
    text = '{"gate": {"min_lift": 2}}'
    assert parse_options(EvaluationOptions, text, "evaluation").gate.min_lift == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a JSON object is needed"),
        ("{", "not JSON"),
        ('{"epoch": 3}', "training.epoch: unknown; use one of"),
        ('{"epochs": "many"}', r"training\.epochs: .*'many'"),
        ('{"epochs": 0}', "training.epochs is 0; at least 1"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(TrainingOptions, text, "training")
