"""Recipes are checked before anything runs, and survive their file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrec_model.data.catalog import DATASETS
from genrec_model.errors import ConfigError
from genrec_pipelines.recipes import RECIPES, Recipe, recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_its_file(name: str, tmp_path: Path) -> None:
    made = recipe(name)
    (tmp_path / "recipe.yaml").write_text(made.to_yaml())
    assert Recipe.from_file(tmp_path / "recipe.yaml") == made


def test_every_data_set_has_a_recipe() -> None:
    for name in DATASETS:
        assert recipe(name).dataset == name


def test_changes() -> None:
    changed = recipe("demo").changed({"training.epochs": 3, "target": "none", "path": "x"})
    assert (changed.training["epochs"], changed.target, changed.path) == (3, "none", "x")
    assert json.loads(changed.arguments()["training_options"])["epochs"] == 3
    assert recipe("demo").training["epochs"] != 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "netflix"}, "data set 'netflix' is unknown"),
        ({"target": "moon"}, "target 'moon' is unknown"),
        ({"train": False}, "model_uri: needed"),
        ({"engines": ["onnx"]}, "BACKEND-PRECISION"),
        ({"nonsense": 1}, "nonsense: unknown"),
        ({"training": 1}, "training: unknown"),
        ({"training.epoch": 1}, "training.epoch: unknown"),
        ({"model.num_layers": 0}, "model.num_layers is 0"),
        ({"rollout.steps": [50, 5]}, "rollout steps"),
        ({"validation.min_users": "few"}, "validation.min_users"),
    ],
)
def test_mistakes_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe("demo").changed(changes)


@pytest.mark.parametrize("text", ["- a", "a: [", "dataset: 1"])
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(ConfigError):
        Recipe.from_file(tmp_path / "r.yaml")


def test_a_name_that_is_unknown() -> None:
    with pytest.raises(ConfigError, match="use one of demo"):
        recipe("dmo")
