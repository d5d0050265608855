"""Rows of a benchmark: each run appends, none is ever rewritten."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch

#: Where every benchmark of this package appends, unless told otherwise.
RECORDS = Path(__file__).parents[2] / "bench" / "records.csv"


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure and what it was compared to.

    Args:
        date: day of the run (UTC).
        commit: of the code that ran.
        gpu: name of the GPU.
        software: versions.
        case: what was timed.
        backend: what ran it.
        dtype: of the inputs.
        p50_ms, p95_ms: quantiles of the time.
        rate, unit: of work done, at the median.
        reference, reference_ms: what ran beside it in the same run, and its median.
        error: of the output relative to float64.
        note: anything else.
    """

    date: str
    commit: str
    gpu: str
    software: str
    case: str
    backend: str
    dtype: str
    p50_ms: float
    p95_ms: float
    rate: float
    unit: str
    reference: str = ""
    reference_ms: float | None = None
    error: float | None = None
    note: str = ""


def append_records(path: Path, records: Sequence[Record]) -> None:
    """Add rows to the file, which gets its header first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Record)], lineterminator="\n")
        if fresh:
            writer.writeheader()
        for record in records:
            row = asdict(record)
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()})


def where_and_when(commit: str) -> dict[str, str]:
    """The columns that all rows of a run on a GPU share."""
    import triton

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "gpu": torch.cuda.get_device_name(),
        "software": f"torch {torch.__version__}; triton {triton.__version__}",
    }
