"""What a data set is called, which actions it has, and how its tasks are labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from genrec_model.errors import ConfigError

TaskName = Literal["engagement", "retention", "monetization"]
RuleKind = Literal[
    "value_at_least", "action_in", "returns_within", "repeats_item_within", "spend_at_least"
]

TASKS: tuple[TaskName, ...] = get_args(TaskName)

_THRESHOLD_KINDS = ("value_at_least", "spend_at_least")
_HORIZON_KINDS = ("returns_within", "repeats_item_within")


@dataclass(frozen=True, kw_only=True)
class TaskRule:
    """How a label follows from the events.

    ``value_at_least``, ``spend_at_least``
        the event's ``value`` reaches ``threshold``; known at once.
    ``action_in``
        the event's action is one of ``actions``; known at once.
    ``returns_within``
        the user has another event between ``min_gap_s`` and ``horizon_s`` seconds later, both
        included; known when the horizon has passed.
    ``repeats_item_within``
        the same, for another event of the user on the same item.

    For every kind but ``action_in``, non-empty ``actions`` restrict the rule: only events with
    these actions are labelled, and only they count as a return.

    Raises:
        ConfigError: a parameter is missing, does not belong to the kind, or is out of range.
    """

    kind: RuleKind
    threshold: float | None = None
    horizon_s: int | None = None
    min_gap_s: int | None = None
    actions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(RuleKind):
            raise ConfigError(
                f"task rule {self.kind!r} is unknown: use one of {', '.join(get_args(RuleKind))}"
            )
        if (self.threshold is not None) != (self.kind in _THRESHOLD_KINDS):
            raise ConfigError(f"task rule {self.kind}: threshold is for {_THRESHOLD_KINDS}, always")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise ConfigError(f"task rule {self.kind}: threshold must be a finite number")
        if self.kind == "action_in" and not self.actions:
            raise ConfigError("task rule action_in: name at least one action")
        self._check_horizon()

    def _check_horizon(self) -> None:
        needs_horizon = self.kind in _HORIZON_KINDS
        for field, value in (("horizon_s", self.horizon_s), ("min_gap_s", self.min_gap_s)):
            if (value is not None) != needs_horizon:
                raise ConfigError(f"task rule {self.kind}: {field} is for {_HORIZON_KINDS}, always")
        if self.horizon_s is None or self.min_gap_s is None:
            return
        # A gap of zero would let an event be its own return.
        if not 1 <= self.min_gap_s <= self.horizon_s:
            raise ConfigError(
                f"task rule {self.kind}: 1 <= min_gap_s <= horizon_s is needed, "
                f"got {self.min_gap_s} and {self.horizon_s}"
            )


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One of the three tasks and its labelling rule in words and as data."""

    name: TaskName
    rule: TaskRule
    description: str

    def __post_init__(self) -> None:
        if self.name not in TASKS:
            raise ConfigError(f"task {self.name!r} is unknown: use one of {', '.join(TASKS)}")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """What a consumer must know about a data set beside its events.

    Args:
        name: short name, used in run names and metrics.
        title: name for people.
        actions: every action that an event may have; the order fixes their small integers.
        tasks: tasks that the data can label.
        unlabelled: every other task and the reason why the data cannot label it.
        exclude_seen: whether an item is recommended to a user once at most.
        value_unit: unit of ``value``, for example ``stars`` or ``pounds``.
        licence: licence of the data, or how it may be used.
        extra_columns: columns of the event table beside the five of the contract.

    Raises:
        ConfigError: the parts contradict each other.
    """

    name: str
    title: str
    actions: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    unlabelled: Mapping[str, str]
    exclude_seen: bool
    value_unit: str
    licence: str
    extra_columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.actions or len(set(self.actions)) != len(self.actions):
            raise ConfigError(f"data set {self.name}: actions must be distinct, at least one")
        named = [*(task.name for task in self.tasks), *self.unlabelled]
        if sorted(named) != sorted(TASKS):
            raise ConfigError(
                f"data set {self.name}: each of {', '.join(TASKS)} must be a task or be in "
                f"`unlabelled` with a reason, got {', '.join(named) or 'none'}"
            )
        for task in self.tasks:
            unknown = [name for name in task.rule.actions if name not in self.actions]
            if unknown:
                raise ConfigError(
                    f"data set {self.name}: task {task.name} uses unknown action {unknown[0]!r}"
                )

    @property
    def task_names(self) -> tuple[TaskName, ...]:
        """Names of the tasks that the data can label, in order."""
        return tuple(task.name for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain JSON types."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["actions"] = list(self.actions)
        fields["extra_columns"] = list(self.extra_columns)
        fields["unlabelled"] = dict(self.unlabelled)
        fields["tasks"] = [_task_to_dict(task) for task in self.tasks]
        return fields

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DatasetSpec:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: a field is missing, unknown or wrong.
        """
        try:
            fields = dict(data)
            fields["actions"] = tuple(fields["actions"])
            fields["extra_columns"] = tuple(fields.get("extra_columns", ()))
            fields["unlabelled"] = dict(fields["unlabelled"])
            fields["tasks"] = tuple(_task_from_dict(task) for task in fields["tasks"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"data set specification is not usable: {error}") from error


def _task_to_dict(task: TaskSpec) -> dict[str, Any]:
    data = asdict(task)
    data["rule"]["actions"] = list(task.rule.actions)
    return data


def _task_from_dict(data: Mapping[str, Any]) -> TaskSpec:
    rule = dict(data["rule"])
    rule["actions"] = tuple(rule.get("actions", ()))
    return TaskSpec(
        name=data["name"], description=data.get("description", ""), rule=TaskRule(**rule)
    )
