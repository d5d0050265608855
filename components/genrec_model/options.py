"""Options given as JSON, into the frozen dataclass that they belong to."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from genrec_model.errors import ConfigError

T = TypeVar("T")


def parse_options(kind: type[T], text: str, what: str) -> T:
    """Options of a dataclass from a JSON object; those left out keep their defaults.

    Args:
        kind: a frozen dataclass.
        text: JSON object, or empty for all defaults.
        what: how to call it in messages, for example ``training``.

    Raises:
        ConfigError: not a JSON object, an unknown name, a wrong type or value.
    """
    values = parse_object(text, what)
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{what}.{name}: unknown; use one of {', '.join(sorted(known))}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (what, *first["loc"]))
        raise ConfigError(f"{where}: {first['msg']}, got {first['input']!r}") from error


def parse_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object, or an empty one for empty text.

    Raises:
        ConfigError: it is something else.
    """
    try:
        values = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what}: not JSON ({error})") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what}: a JSON object is needed, not {text}")
    return dict(values)
