"""The gate: run the suite, write the report, tell the verdict."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import polars as pl

from genrec_model.data.dataset import Dataset
from genrec_model.validation.limits import ValidationLimits
from genrec_model.validation.observed import describe_observed
from genrec_model.validation.report import write_report
from genrec_model.validation.result import Check, ValidationResult, require_valid
from genrec_model.validation.suite import build_suite, expectation_name, import_gx
from genrec_model.validation.table import validation_table

__all__ = ["Check", "ValidationResult", "require_valid", "validate_dataset"]

DEFAULT_LIMITS = ValidationLimits()


def validate_dataset(
    dataset: Dataset, report_path: Path, *, limits: ValidationLimits = DEFAULT_LIMITS
) -> ValidationResult:
    """Judge a data set and write a one-page HTML report.

    Data that fail do not raise: the report is written, and :func:`require_valid` raises.

    Args:
        dataset: any data set, however broken its events.
        report_path: where the page goes; it needs no other file and no network.
        limits: bounds of the suite.
    """
    started = time.perf_counter()
    table = validation_table(dataset, limits)
    checks = _run_suite(build_suite(dataset.spec, limits), table)
    failed = tuple(c.name for c in checks if not c.success and c.severity == "critical")
    statistics = {
        **_facts(table),
        "evaluated": len(checks),
        "successful": sum(check.success for check in checks),
        "failed": sum(not check.success for check in checks),
        "seconds": round(time.perf_counter() - started, 3),
    }
    result = ValidationResult(
        success=not failed, statistics=statistics, failed=failed, checks=checks
    )
    write_report(dataset.spec, table, result, report_path)
    return result


def _run_suite(suite: Any, table: pl.DataFrame) -> tuple[Check, ...]:
    gx = import_gx()
    # An ephemeral context lives in memory: nothing is written beside the report.
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("events").add_dataframe_asset("events")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(
        {"dataframe": table.to_pandas()}
    )
    outcome = batch.validate(context.suites.add(suite), result_format="SUMMARY")
    found = {}
    for evr in outcome.results:
        config = evr.expectation_config
        column = config.kwargs.get("column")
        name = expectation_name(config.type, column)
        found[name] = Check(
            name=name,
            column=column,
            description=config.description or "",
            success=bool(evr.success),
            observed=describe_observed(evr, table.columns),
            severity=str(getattr(config.severity, "value", config.severity)),
        )
    # Great Expectations reports expectations that raised first; the suite's order reads better.
    order = [
        expectation_name(e.expectation_type, getattr(e, "column", None)) for e in suite.expectations
    ]
    return tuple(found[name] for name in order)


def _facts(table: pl.DataFrame) -> dict[str, float]:
    facts: dict[str, float] = {"events": table.height}
    for name, column in (("users", "user_id"), ("items", "item_id")):
        facts[name] = table[column].n_unique() if column in table.columns else 0
    for column in table.columns:
        if column.startswith("label_"):
            known = table[column].drop_nulls()
            task = column.removeprefix("label_")
            facts[f"label_rate_{task}"] = int(known.sum()) / known.len() if known.len() else 0.0
            facts[f"known_labels_{task}"] = known.len()
    return facts
