"""CSV files that benchmarks append to, each row with its date and commit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from genrec_model.registry.tracking import git_commit


def append_rows(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Append rows to a file, which gets its header first.

    Args:
        path: of the file.
        columns: names of what the rows hold, after ``date`` and ``commit``.
        rows: values in that order.
    """
    fresh = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    when, commit = datetime.now(UTC).strftime("%Y-%m-%d"), git_commit()[:9]
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(("date", "commit", *columns))
        writer.writerows((when, commit, *row) for row in rows)
