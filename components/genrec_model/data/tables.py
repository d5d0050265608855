"""Reading source files; whatever is wrong with one becomes one line that names it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from genrec_model.errors import DataError

TableKind = Literal["parquet", "csv", "tsv"]

_KINDS: dict[str, TableKind] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".inter": "tsv",
    ".item": "tsv",
}


def read_table(
    path: Path, *, kind: TableKind | None = None, columns: Sequence[str] = ()
) -> pl.DataFrame:
    """Read a Parquet, CSV or TSV file.

    Args:
        path: the file.
        kind: its format; told by the suffix if not given.
        columns: columns that must be there; others are read too.

    Raises:
        DataError: the file is missing, empty, of an unknown kind, unreadable, or lacks columns.
    """
    kind = kind or _KINDS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path}: unknown kind of file: use {', '.join(sorted(_KINDS))}")
    if not path.exists():
        raise DataError(f"{path}: no such file: check the path")
    if not path.is_file():
        raise DataError(f"{path}: this is a folder: name a file in it")
    try:
        content = path.read_bytes() if kind != "parquet" else b""
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): check its rights") from error
    return parse_table(path if kind == "parquet" else content, kind, path, columns=columns)


def parse_table(
    source: Path | bytes,
    kind: TableKind,
    name: Path | str,
    *,
    columns: Sequence[str] = (),
    header: bool = True,
    quoted: bool = True,
) -> pl.DataFrame:
    """Parse a table; ``name`` is what an error calls it.

    Raises:
        DataError: it is empty, unreadable, or lacks ``columns``.
    """
    size = source.stat().st_size if isinstance(source, Path) else len(source)
    if size == 0:
        raise DataError(f"{name}: the file is empty: fetch or export it again")
    stream = source if isinstance(source, Path) else io.BytesIO(source)
    try:
        frame = (
            pl.read_parquet(stream)
            if kind == "parquet"
            else pl.read_csv(
                stream,
                separator="," if kind == "csv" else "\t",
                has_header=header,
                quote_char='"' if quoted else None,
                # The whole file decides a column's type: an id may turn textual in the last row.
                infer_schema_length=None,
            )
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        raise DataError(
            f"{name}: not a readable {kind} file ({_one_line(error)}): export it again as UTF-8"
            if kind != "parquet"
            else f"{name}: not a readable parquet file ({_one_line(error)}): export it again"
        ) from error
    require_columns(frame, columns, name)
    if frame.height == 0:
        raise DataError(f"{name}: the file has no rows: fetch or export it again")
    return frame


def require_columns(frame: pl.DataFrame, columns: Sequence[str], name: Path | str) -> None:
    """Check that all ``columns`` are there.

    Raises:
        DataError: names the missing ones and some of those that are there.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        there = ", ".join(repr(column)[1:-1][:40] for column in frame.columns[:12])
        raise DataError(
            f"{name}: missing column {', '.join(missing)}: the file has {there}; "
            "check that it is the right file"
        )


def cast_columns(frame: pl.DataFrame, name: Path | str, **exprs: pl.Expr) -> pl.DataFrame:
    """Select ``exprs`` of ``frame``.

    Raises:
        DataError: a value does not fit the type asked for.
    """
    try:
        return frame.select(**exprs)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{name}: a column holds values of the wrong type ({_one_line(error)}): "
            "check that it is the right file"
        ) from error


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
