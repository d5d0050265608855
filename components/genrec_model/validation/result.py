"""What the gate found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from genrec_model.errors import ValidationFailed


@dataclass(frozen=True, kw_only=True)
class Check:
    """One expectation and how it came out.

    Args:
        name: the expectation with its column, unique in a result.
        column: the column it is about, none for the whole table.
        description: what it asks, in plain words.
        success: whether the data meet it.
        observed: what was found, in words.
        severity: ``critical``, ``warning`` or ``info``; only critical ones fail the gate.
    """

    name: str
    column: str | None
    description: str
    success: bool
    observed: str
    severity: str


@dataclass(frozen=True, kw_only=True)
class ValidationResult:
    """The gate's verdict.

    Args:
        success: whether every critical expectation is met.
        statistics: counts: events, users, items, evaluated, successful and failed expectations;
            per task ``label_rate_<task>``; ``seconds`` that it took.
        failed: names of the critical expectations that are not met.
        checks: every expectation, in the order of the suite.
    """

    success: bool
    statistics: Mapping[str, float]
    failed: tuple[str, ...]
    checks: tuple[Check, ...]

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON types."""
        return {
            "success": self.success,
            "statistics": dict(self.statistics),
            "failed": list(self.failed),
            "checks": [asdict(check) for check in self.checks],
        }


def require_valid(result: ValidationResult) -> None:
    """Stop here unless the data passed.

    Raises:
        ValidationFailed: names the failed expectations and what was found.
    """
    if result.success:
        return
    found = {check.name: check.observed for check in result.checks}
    listed = "; ".join(f"{name}: {found[name]}" for name in result.failed)
    raise ValidationFailed(
        f"the data gate refused the data, {len(result.failed)} of {len(result.checks)} "
        f"expectations failed ({listed}): see the validation report",
        result.failed,
    )
