"""Three-way merge patches, as ``kubectl apply`` makes them.

The annotation that kubectl uses holds what was applied last. So a field that is wanted no longer
is removed, a field that somebody else owns is left alone, and kubectl and the reconciler can work
on the same object. KServe does not copy this annotation to pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

Patch = dict[str, Any]


def last_applied(live: Mapping[str, Any]) -> dict[str, Any]:
    """What was applied last to an object; empty where nobody wrote it down."""
    text = live.get("metadata", {}).get("annotations", {}).get(LAST_APPLIED, "{}")
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def annotated(desired: Mapping[str, Any]) -> dict[str, Any]:
    """`desired` with itself in the annotation."""
    text = json.dumps(desired, separators=(",", ":"), sort_keys=True)
    metadata = dict(desired["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), LAST_APPLIED: text}
    return {**desired, "metadata": metadata}


def merge_patch(
    desired: Mapping[str, Any], live: Mapping[str, Any], applied: Mapping[str, Any]
) -> Patch:
    """JSON merge patch that brings `live` to `desired`; empty if it is there already.

    Args:
        applied: what was applied last; fields of it that `desired` lacks are removed.
    """
    patch: Patch = {}
    for name, value in desired.items():
        old = live.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            before = applied.get(name)
            inner = merge_patch(value, old, before if isinstance(before, Mapping) else {})
            if inner:
                patch[name] = inner
        elif not _holds(value, old):
            patch[name] = value
    for name in applied:
        if name not in desired and live.get(name) is not None:
            patch[name] = None
    return patch


def describe(patch: Mapping[str, Any], live: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """One line for each field that a patch changes."""
    for name, value in patch.items():
        at = f"{path}.{name}" if path else name
        old = live.get(name)
        if name == LAST_APPLIED:
            continue
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            yield from describe(value, old, at)
        elif value is None:
            yield f"- {at}: {json.dumps(old)}"
        elif old is None:
            yield f"+ {at}: {json.dumps(value)}"
        else:
            yield f"~ {at}: {json.dumps(old)} -> {json.dumps(value)}"


def _holds(value: Any, live: Any) -> bool:
    """Whether `live` is `value`, apart from fields that the server has filled in."""
    if isinstance(value, Mapping):
        return isinstance(live, Mapping) and all(_holds(v, live.get(k)) for k, v in value.items())
    if isinstance(value, list):
        return (
            isinstance(live, list)
            and len(live) == len(value)
            and all(_holds(v, old) for v, old in zip(value, live, strict=True))
        )
    return bool(value == live)
