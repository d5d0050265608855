"""What an expectation found, in words short enough for one cell of a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def describe_observed(evr: Any, columns: Sequence[str]) -> str:
    """Say what a Great Expectations validation result found.

    Args:
        evr: an ``ExpectationValidationResult`` in format SUMMARY.
        columns: columns of the table that was looked at.
    """
    kwargs, result = evr.expectation_config.kwargs, evr.result or {}
    column = kwargs.get("column")
    if column is not None and column not in columns:
        return f"there is no column {column}, or it could not be computed"
    if "column_set" in kwargs:
        return _columns(set(kwargs["column_set"]), columns)
    if result.get("unexpected_count") is not None:
        return _rows(result)
    if "observed_value" in result:
        is_share = any(word in evr.expectation_config.type for word in ("mean", "proportion"))
        return _number(result["observed_value"], is_share=is_share)
    return "could not be evaluated: " + _exception(evr.exception_info)


def _columns(wanted: set[str], there: Sequence[str]) -> str:
    missing, extra = sorted(wanted - set(there)), sorted(set(there) - wanted)
    parts = [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"unknown: {', '.join(extra)}"] if extra else []
    return "; ".join(parts) or f"all {len(wanted)} columns"


def _rows(result: dict[str, Any]) -> str:
    count, total = int(result["unexpected_count"]), int(result["element_count"])
    if count == 0:
        return f"all {total:,} rows"
    values = dict.fromkeys(str(value)[:40] for value in result.get("partial_unexpected_list") or [])
    examples = ", ".join(list(values)[:3])
    return f"{count:,} of {total:,} rows do not" + (f", e.g. {examples}" if examples else "")


def _number(value: Any, *, is_share: bool) -> str:
    if isinstance(value, str):
        return value
    number = float(value) if value is not None else float("nan")
    if number != number:  # NaN: a mean over nothing
        return "nothing to measure"
    if is_share:
        return f"{number:.1%}"
    return f"{number:,.0f}" if number.is_integer() and abs(number) > 1 else f"{number:.4g}"


def _exception(info: Any) -> str:
    # One entry, or one per metric that raised.
    entries = [info] if "exception_message" in info else list(info.values())
    messages = [str(entry["exception_message"]) for entry in entries if entry]
    lines = messages[0].strip().splitlines() if messages else []
    return lines[0][:160] if lines else "unknown reason"
