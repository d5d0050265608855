"""The gate's page: self-contained, because Great Expectations' own loads a dozen CDN files."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from genrec_model.data.spec import DatasetSpec
from genrec_model.validation.result import ValidationResult

_MAX_ACTIONS_SHOWN = 12


def write_report(
    spec: DatasetSpec, table: pl.DataFrame, result: ValidationResult, path: Path
) -> None:
    """Write the page; it appears whole or not at all.

    Args:
        spec: the data set's specification.
        table: its validation table.
        result: the verdict.
        path: file to write.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("genrec_model.validation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        spec=spec,
        result=result,
        period=_period(table),
        actions=_actions(table),
        tasks=_tasks(spec, result),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(path)


def _period(table: pl.DataFrame) -> str:
    if "timestamp" not in table.columns or not table.schema["timestamp"].is_numeric():
        return "unknown"
    times = table["timestamp"].drop_nulls()
    try:
        days = [datetime.fromtimestamp(int(t), UTC).date() for t in (times.min(), times.max())]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return "unknown"
    return f"{days[0]} to {days[1]}"


def _actions(table: pl.DataFrame) -> list[dict[str, Any]]:
    if "action" not in table.columns or table.height == 0:
        return []
    counts = table["action"].cast(pl.String).fill_null("(empty)").value_counts(sort=True)
    shown = counts.head(_MAX_ACTIONS_SHOWN)
    return [
        {"name": name, "count": count, "share": count / table.height}
        for name, count in shown.iter_rows()
    ]


def _tasks(spec: DatasetSpec, result: ValidationResult) -> list[dict[str, Any]]:
    facts, events = result.statistics, result.statistics["events"]
    return [
        {
            "name": task.name,
            "description": task.description,
            "rate": facts.get(f"label_rate_{task.name}"),
            "known": facts.get(f"known_labels_{task.name}", 0) / events if events else 0.0,
        }
        for task in spec.tasks
    ]
