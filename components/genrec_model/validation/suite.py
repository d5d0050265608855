"""The expectations, built from a data set's specification."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from genrec_model.data.events import COLUMNS
from genrec_model.data.spec import DatasetSpec
from genrec_model.validation.limits import ValidationLimits
from genrec_model.validation.table import IS_DUPLICATE, ON_NEW_ITEM, SINCE_PREVIOUS

__all__ = ["ValidationLimits", "build_suite", "expectation_name", "import_gx"]


def import_gx() -> Any:
    """Great Expectations, with its usage reports switched off.

    Imported on use, because it takes seconds.
    """
    # Great Expectations reads this once, at its first import, and has no other switch that
    # comes early enough. A choice made by whoever runs this stays.
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    return gx


def expectation_name(kind: str, column: str | None) -> str:
    """How a result names an expectation: ``expect_column_values_to_not_be_null(user_id)``."""
    return f"{kind}({column or 'table'})"


def build_suite(spec: DatasetSpec, limits: ValidationLimits, *, now: int | None = None) -> Any:
    """The suite for a data set's validation table.

    Args:
        spec: which actions, tasks and extra columns there are.
        limits: bounds.
        now: unix seconds, today if not given.

    Returns:
        a ``great_expectations.ExpectationSuite``; every expectation's ``description`` says in
        plain words what it asks.
    """
    gx = import_gx()
    now = int(time.time()) if now is None else now
    expectations = [
        *_schema(spec),
        *_values(spec, limits, now=now),
        *_shape(limits),
        *_labels(spec, limits),
    ]
    return gx.ExpectationSuite(name=f"{spec.name}-events", expectations=expectations)


def _schema(spec: DatasetSpec) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    helpers = (SINCE_PREVIOUS, IS_DUPLICATE, ON_NEW_ITEM)
    labels = tuple(f"label_{task.name}" for task in spec.tasks)
    yield gxe.ExpectTableColumnsToMatchSet(
        column_set=[*COLUMNS, *spec.extra_columns, *helpers, *labels],
        exact_match=True,
        description="the columns of the event table, and no others",
    )
    for column in ("user_id", "item_id"):
        yield gxe.ExpectColumnValuesToBeInTypeList(
            column=column, type_list=["int64", "str"], description="whole numbers or text"
        )
    for column, kind, words in (
        ("timestamp", "int64", "whole unix seconds"),
        ("action", "str", "text"),
        ("value", "float32", "32-bit floating point"),
    ):
        yield gxe.ExpectColumnValuesToBeOfType(column=column, type_=kind, description=words)
    for column in COLUMNS:
        yield gxe.ExpectColumnValuesToNotBeNull(column=column, description="never empty, never NaN")


def _values(spec: DatasetSpec, limits: ValidationLimits, *, now: int) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    yield gxe.ExpectColumnValuesToBeBetween(
        column="timestamp",
        min_value=limits.min_timestamp,
        max_value=now + limits.max_future_s,
        description="plausible unix seconds, not in the future",
    )
    yield gxe.ExpectColumnValuesToBeInSet(
        column="action",
        value_set=list(spec.actions),
        description=f"one of {', '.join(spec.actions)}",
    )
    yield gxe.ExpectColumnValuesToBeBetween(
        column="value",
        min_value=-limits.max_abs_value,
        max_value=limits.max_abs_value,
        description=f"finite, at most {limits.max_abs_value:,.0f} in magnitude ({spec.value_unit})",
    )
    yield gxe.ExpectColumnValuesToBeBetween(
        column=SINCE_PREVIOUS,
        min_value=0,
        description="time never runs backwards inside a user's history",
    )


def _shape(limits: ValidationLimits) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    yield gxe.ExpectTableRowCountToBeBetween(
        min_value=limits.min_events, description=f"at least {limits.min_events:,} events"
    )
    for column, noun, fewest in (
        ("user_id", "users", limits.min_users),
        ("item_id", "items", limits.min_items),
    ):
        yield gxe.ExpectColumnUniqueValueCountToBeBetween(
            column=column, min_value=fewest, description=f"at least {fewest:,} {noun}"
        )
    yield gxe.ExpectColumnMeanToBeBetween(
        column=IS_DUPLICATE,
        max_value=limits.max_duplicate_share,
        description=f"at most {limits.max_duplicate_share:.0%} of rows repeat another exactly",
    )
    yield gxe.ExpectColumnMeanToBeBetween(
        column=ON_NEW_ITEM,
        max_value=limits.max_new_item_share,
        description=(
            f"in the last {limits.new_item_window:.0%} of the time, at most "
            f"{limits.max_new_item_share:.0%} of events are on items never seen before it"
        ),
    )


def _labels(spec: DatasetSpec, limits: ValidationLimits) -> Iterator[Any]:
    import great_expectations.expectations as gxe

    for task in spec.tasks:
        column = f"label_{task.name}"
        yield gxe.ExpectColumnMeanToBeBetween(
            column=column,
            min_value=limits.min_label_rate,
            max_value=limits.max_label_rate,
            description=(
                f"positive for {limits.min_label_rate:.0%} to {limits.max_label_rate:.0%}: "
                f"{task.description}"
            ),
        )
        yield gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
            column=column,
            min_value=limits.min_known_share,
            description=f"the answer is known for at least {limits.min_known_share:.0%} of events",
        )
