"""Complete runs as values: what `genrec run` executes, prints with `genrec config`, or reads.

A recipe leaves unsaid what has a good default; every name in it is checked before a run starts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from genrec_model.data.catalog import DATASETS
from genrec_model.engines.base import parse_engine_name
from genrec_model.errors import ConfigError
from genrec_model.evaluation.evaluate import EvaluationOptions
from genrec_model.features.prepare import FeatureOptions
from genrec_model.hstu import HSTUConfig
from genrec_model.options import parse_options
from genrec_model.training.options import TrainingOptions
from genrec_model.validation.limits import ValidationLimits
from genrec_serving.rollout.plan import RolloutPlan

Options = dict[str, Any]
TARGETS = ("local", "kserve", "none")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run of the pipeline.

    Args:
        dataset: name of the data set's adapter.
        path: where its files are; empty for the adapter's own place.
        columns: for the adapter ``columns``: ``name=column`` each.
        model_name: registered model.
        train: train a model; otherwise `model_uri` is loaded.
        model_uri: ``models:/name@alias`` or ``models:/name/version``.
        engines: engines to build, ``backend-precision`` each.
        target: where the model is rolled out: ``local``, ``kserve`` or ``none``.
        validation, features, model, training, evaluation, rollout: options by name, see
            `ValidationLimits`, `FeatureOptions`, `HSTUConfig`, `TrainingOptions`,
            `EvaluationOptions` and `RolloutPlan`.

    Raises:
        ConfigError: a name or a value is wrong; says which.
    """

    dataset: str
    path: str = ""
    columns: tuple[str, ...] = ()
    model_name: str = "hstu"
    train: bool = True
    model_uri: str = ""
    engines: tuple[str, ...] = ("onnxruntime-fp32", "tensorrt-rtx-fp16")
    target: str = "local"
    validation: Options = field(default_factory=dict)
    features: Options = field(default_factory=dict)
    model: Options = field(default_factory=dict)
    training: Options = field(default_factory=dict)
    evaluation: Options = field(default_factory=dict)
    rollout: Options = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.dataset not in DATASETS:
            raise ConfigError(
                f"data set {self.dataset!r} is unknown: use one of {', '.join(DATASETS)}"
            )
        if self.target not in TARGETS:
            raise ConfigError(f"target {self.target!r} is unknown: use one of {', '.join(TARGETS)}")
        if not self.train and not self.model_uri:
            raise ConfigError("model_uri: needed where nothing is trained")
        for name in self.engines:
            parse_engine_name(name)
        # A model's tables follow from the data; sizes that fit any stand in for them here.
        stand_in = {"num_items": 4, "num_actions": 3, "tasks": []}
        for kind, what, values in (
            (ValidationLimits, "validation", self.validation),
            (FeatureOptions, "features", self.features),
            (HSTUConfig, "model", {**stand_in, **self.model}),
            (TrainingOptions, "training", self.training),
            (EvaluationOptions, "evaluation", self.evaluation),
            (RolloutPlan, "rollout", self.rollout),
        ):
            parse_options(kind, json.dumps(values), what)

    def arguments(self) -> dict[str, Any]:
        """Arguments of the pipeline, without the cache key."""
        return {
            "dataset": self.dataset,
            "path": self.path,
            "columns": list(self.columns),
            "model_name": self.model_name,
            "train_model": self.train,
            "model_uri": self.model_uri,
            "engines": list(self.engines),
            "validation_limits": json.dumps(self.validation, sort_keys=True),
            "feature_options": json.dumps(self.features, sort_keys=True),
            "model_options": json.dumps(self.model, sort_keys=True),
            "training_options": json.dumps(self.training, sort_keys=True),
            "evaluation_options": json.dumps(self.evaluation, sort_keys=True),
            "rollout_plan": json.dumps(self.rollout, sort_keys=True),
            "target": self.target,
        }

    def changed(self, settings: Mapping[str, Any]) -> Recipe:
        """The recipe with ``section.option`` or ``option`` set to other values."""
        values = dataclasses.asdict(self)
        for name, value in settings.items():
            section, _, option = name.partition(".")
            if section not in values or isinstance(values[section], dict) != bool(option):
                raise ConfigError(f"{name}: unknown; `genrec config` prints what can be set")
            if option:
                values[section][option] = value
            else:
                values[section] = value
        return Recipe.from_dict(values)

    def to_yaml(self) -> str:
        """The recipe as `from_file` reads it."""
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        text: str = yaml.safe_dump(values, sort_keys=False)
        return text

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """A recipe from plain values."""
        return parse_options(cls, json.dumps(dict(values)), "recipe")

    @classmethod
    def from_file(cls, path: Path) -> Recipe:
        """Read a YAML file."""
        try:
            values = yaml.safe_load(path.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read as YAML ({error})") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: a recipe is a mapping; `genrec config` prints one")
        return cls.from_dict(values)


def demo() -> Recipe:
    """What `make demo` ends with: MovieLens-100K, full training, a canary beside the champion."""
    return Recipe(
        dataset="movielens-100k",
        engines=(
            "onnxruntime-fp32",
            "onnxruntime-int8",
            "tensorrt-rtx-fp16",
            "tensorrt-rtx-int8",
            "tensorrt-rtx-fp8",
        ),
        training={"epochs": 10},
        evaluation={"gate": {"min_lift": 1.5}},
    )


def demo_baseline() -> Recipe:
    """What `make demo` starts with: a hasty model, the champion that the next one must beat."""
    return Recipe(
        dataset="movielens-100k",
        engines=("onnxruntime-fp32",),
        model={"num_layers": 1},
        training={"epochs": 3},
        # Three epochs are too few for the tasks; a real champion is held to the default.
        evaluation={"gate": {"min_task_auc": 0.4}},
    )


def movielens() -> Recipe:
    """A larger MovieLens: fewer epochs, as each has more rows."""
    return Recipe(dataset="movielens", training={"epochs": 4})


def kuairand() -> Recipe:
    """KuaiRand: few events a user, so short histories."""
    return Recipe(
        dataset="kuairand",
        model={"max_history": 127, "norm_length": 128},
        training={"epochs": 6},
        # Whether somebody is back within hours is close to chance in two weeks of data.
        evaluation={"gate": {"min_task_auc": 0.4}},
    )


def online_retail() -> Recipe:
    """Online Retail II: long histories, repeated purchases."""
    return Recipe(dataset="online-retail", training={"epochs": 3})


def columns() -> Recipe:
    """Any file with a column mapping."""
    return Recipe(dataset="columns", training={"epochs": 5})


#: Recipes by name; a data set's own recipe has its name.
RECIPES: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "demo-baseline": demo_baseline,
    "movielens-100k": demo,
    "movielens": movielens,
    "kuairand": kuairand,
    "online-retail": online_retail,
    "columns": columns,
}


def recipe(name: str) -> Recipe:
    """A recipe by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is unknown: use one of {', '.join(RECIPES)}")
    return RECIPES[name]()
