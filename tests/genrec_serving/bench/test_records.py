"""Records are appended, never rewritten, and say what they were measured with."""

from __future__ import annotations

import csv
from pathlib import Path

from genrec_serving.bench.records import COLUMNS, Record, append

RECORD = Record(
    case="serve-recommend-c4",
    backend="torch",
    dtype="fp32",
    p50_ms=12.3456,
    p95_ms=20.0,
    rate=81.0,
    unit="requests/s",
    reference="torch",
    reference_ms=12.3456,
    error=1e-7,
    gpu="CPU, 2 cores",
    note="a note, with a comma",
)


def test_rows_are_appended(tmp_path: Path) -> None:
    path = tmp_path / "bench" / "records.csv"
    append(path, [RECORD])
    first = path.read_text()
    append(path, [RECORD, RECORD])
    assert path.read_text().startswith(first)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["p50_ms"] == "12.35"
    assert rows[0]["note"] == "a note, with a comma"
    assert "torch" in rows[0]["software"]
    assert len(rows[0]["date"]) == 10
