"""`genrec bench pages` on a small data set."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import typer
from click.testing import Result
from typer.testing import CliRunner

from genrec_cache.page_replay import PAGE_POLICIES
from genrec_model.errors import ConfigError
from genrec_pipelines.commands.bench_pages import GAPS_S, PAGE_ROWS, pages


def write(folder: Path, count: int) -> Path:
    table = pl.DataFrame(
        {
            "user": np.arange(count) % 20,
            "movie": np.arange(count) % 60,
            "rating": np.full(count, 5),
            "pos": np.arange(count) // 20,
            "timestamp": 1_000_000 + np.arange(count) * 97,
        }
    )
    table.write_parquet(folder / "ratings.parquet")
    return folder


def run(folder: Path, records: Path) -> Result:
    app = typer.Typer()
    app.command()(pages)
    arguments = ["--dataset", "movielens", "--path", str(folder), "--sizes", "0.1,0.5"]
    return CliRunner().invoke(app, [*arguments, "--records", str(records)])


def test_writes_records(tmp_path: Path) -> None:
    records = tmp_path / "out" / "p.csv"
    for _ in range(2):
        result = run(write(tmp_path, 4000), records)
        assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(records.open()))
    assert len(rows) == 2 * len(GAPS_S) * len(PAGE_ROWS) * 2 * len(PAGE_POLICIES)
    assert {row["policy"] for row in rows} == set(PAGE_POLICIES)
    assert all(0 <= float(row["page_hit_rate"]) <= 1 for row in rows)


def test_histories_that_fill_no_page(tmp_path: Path) -> None:
    result = run(write(tmp_path, 200), tmp_path / "p.csv")
    assert isinstance(result.exception, ConfigError)
    assert "no history fills a page" in str(result.exception)
