"""Which column of a foreign file means what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from genrec_model.errors import ConfigError

TimestampUnit = Literal["s", "ms", "us"]


@dataclass(frozen=True, kw_only=True)
class ColumnMapping:
    """Columns of a foreign file, and how its tasks are labelled.

    Args:
        user: column of user ids.
        item: column of item ids.
        timestamp: column of times: whole numbers, ISO 8601 text (UTC if no zone), or datetimes.
        action: column of action names; one action ``interaction`` if not given.
        value: column of numbers; 1 if not given.
        title: column of item titles.
        sort: sort a user's events by time; otherwise a step back in time is an error.
        timestamp_unit: unit of whole-number times; seconds if not given.
        engagement_threshold: an event with at least this value is engagement.
        engagement_actions: an event with one of these actions is engagement.
        spend_threshold: an event with at least this value is monetization.
        exclude_seen: whether an item is recommended to a user once at most.
        value_unit: unit of ``value``.

    Raises:
        ConfigError: a name is empty, or two options contradict each other.
    """

    user: str
    item: str
    timestamp: str
    action: str | None = None
    value: str | None = None
    title: str | None = None
    sort: bool = False
    timestamp_unit: TimestampUnit | None = None
    engagement_threshold: float | None = None
    engagement_actions: tuple[str, ...] = ()
    spend_threshold: float | None = None
    exclude_seen: bool = True
    value_unit: str = "units"

    def __post_init__(self) -> None:
        for name in ("user", "item", "timestamp", "action", "value", "title"):
            if getattr(self, name) == "":
                raise ConfigError(f"column mapping: {name} is empty: name a column")
        if self.timestamp_unit not in (None, *get_args(TimestampUnit)):
            raise ConfigError(
                f"column mapping: timestamp_unit {self.timestamp_unit!r} is unknown: use s, ms, us"
            )
        if self.engagement_threshold is not None and self.engagement_actions:
            raise ConfigError(
                "column mapping: give engagement_threshold or engagement_actions, not both"
            )
        if self.engagement_actions and self.action is None:
            raise ConfigError("column mapping: engagement_actions needs an action column")
        for name in ("engagement_threshold", "spend_threshold"):
            if getattr(self, name) is not None and self.value is None:
                raise ConfigError(f"column mapping: {name} needs a value column")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the file must have."""
        names = (self.user, self.item, self.timestamp, self.action, self.value, self.title)
        return tuple(name for name in names if name is not None)

    @classmethod
    def parse(cls, options: Sequence[str]) -> ColumnMapping:
        """Read options as typed on a command line: ``user=uid item=sku timestamp=ts sort=true``.

        Raises:
            ConfigError: an option is not ``name=value``, is unknown, doubled, missing or wrong.
        """
        given: dict[str, Any] = {}
        known = {field.name for field in fields(cls)}
        for option in options:
            name, equals, text = (part.strip() for part in option.partition("="))
            if not equals or not text:
                raise ConfigError(f"column mapping: {option!r} is not name=column")
            if name not in known:
                raise ConfigError(
                    f"column mapping: {name!r} is unknown: use {', '.join(sorted(known))}"
                )
            if name in given:
                raise ConfigError(f"column mapping: {name} is given twice")
            given[name] = _parse_value(name, text)
        missing = [name for name in ("user", "item", "timestamp") if name not in given]
        if missing:
            raise ConfigError(
                f"column mapping: {', '.join(missing)} is missing: add {missing[0]}=<column>"
            )
        return cls(**given)


def _parse_value(name: str, text: str) -> object:
    if name in ("sort", "exclude_seen"):
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"column mapping: {name}={text} must be true or false")
        return text.lower() == "true"
    if name in ("engagement_threshold", "spend_threshold"):
        try:
            return float(text)
        except ValueError as error:
            raise ConfigError(f"column mapping: {name}={text} must be a number") from error
    if name == "engagement_actions":
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text
