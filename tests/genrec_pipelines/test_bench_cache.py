"""`genrec bench cache` on a small data set."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from genrec_cache.replay import BATCH_POLICIES, POLICIES
from genrec_model.errors import ConfigError, DataError
from genrec_pipelines.commands.bench_cache import cache, load_accesses, parse_sizes


@pytest.fixture(scope="module")
def ratings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("ml"))
    rng = np.random.default_rng(0)
    count = 2000
    table = pl.DataFrame(
        {
            "user": np.arange(count) % 20,
            "movie": np.minimum(rng.zipf(1.5, count), 60),
            "rating": rng.integers(1, 6, count),
            "pos": np.arange(count) // 20,
            "timestamp": 1_000_000 + np.arange(count) * 7,
        }
    )
    table.write_parquet(folder / "ratings.parquet")
    return folder


def test_writes_rows_curves_and_records(ratings: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(cache)
    options = ["--dataset", "movielens", "--path", str(ratings), "--sizes", "0.1,0.5"]
    files = {name: tmp_path / "out" / name for name in ("r.json", "p.svg", "p.html", "r.csv")}
    for plot in ("p.svg", "p.html"):
        options_now = [*options, "--json", str(files["r.json"]), "--plot", str(files[plot])]
        result = CliRunner().invoke(app, [*options_now, "--records", str(files["r.csv"])])
        assert result.exit_code == 0, result.output
    written = json.loads(files["r.json"].read_text())
    rows, by_batch = written["rows"], written["batch_rows"]
    assert [(row["size"], row["policy"]) for row in rows] == [
        (size, policy) for size in (0.1, 0.5) for policy in POLICIES
    ]
    assert list(rows[0]) == ["policy", "size", "hit_rate", "unique_hit_rate", "copies_per_batch"]
    assert {row["policy"] for row in by_batch} == set(BATCH_POLICIES) - set(POLICIES)
    for row in rows:
        best = next(o for o in rows if o["policy"] == "optimum" and o["size"] == row["size"])
        assert 0 <= row["hit_rate"] <= best["hit_rate"]
        assert 0 <= row["unique_hit_rate"] <= best["unique_hit_rate"]
    assert "<svg" in files["p.svg"].read_text()
    assert files["p.html"].read_text().startswith("<!doctype html>")
    with files["r.csv"].open() as file:
        records = list(csv.DictReader(file))
    assert len(records) == 2 * len(rows + by_batch)
    assert list(records[0]) == [
        *("date", "commit", "dataset", "policy", "size"),
        *("hit_rate", "unique_hit_rate", "copies_per_batch", "seconds"),
    ]


def test_accesses_are_the_events_in_order_of_time(ratings: Path) -> None:
    found = load_accesses("movielens", ratings)
    movies = pl.read_parquet(ratings / "ratings.parquet")["movie"].to_numpy()
    assert np.array_equal(found.stream, np.unique(movies, return_inverse=True)[1])
    # 20 first events have no past; the rest are requests.
    assert len(found.batches) == (2000 - 20) // 128


@pytest.mark.parametrize("sizes", ["", "0", "1.5", "ten", "0.1,,0.2", "nan"])
def test_sizes_that_make_no_sense_are_refused(sizes: str) -> None:
    with pytest.raises(ConfigError, match="--sizes"):
        parse_sizes(sizes)


def test_mistakes_are_found_before_the_work(ratings: Path, tmp_path: Path) -> None:
    records = tmp_path / "r.csv"
    with pytest.raises(ConfigError, match=r"\.svg"):
        cache("movielens", path=ratings, plot=tmp_path / "p.txt", records=records)
    with pytest.raises(ConfigError, match="unknown"):
        cache("movie", path=ratings, sizes="0.1", records=records)
    with pytest.raises(DataError):
        cache("movielens", path=tmp_path, sizes="0.1", records=records)
    assert not records.exists()
