"""The command: what it prints, and exit code 2 with one line for every mistake."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import yaml

Genrec = Callable[..., tuple[int, str, str]]
COLUMNS = ["--column", "user=uid", "--column", "item=sku", "--column", "timestamp=ts"]


def test_check_names_every_part(genrec: Genrec) -> None:
    code, out, _ = genrec("check")
    assert code == 0
    for part in ("GPU", "tensorrt-rtx", "vLLM", "CUTLASS", "Triton", "kubectl", "KServe"):
        assert part in out


def test_config_prints_what_run_reads(genrec: Genrec, tmp_path: Path) -> None:
    code, out, _ = genrec("config", "--dataset", "kuairand", "--set", "training.epochs=4")
    assert code == 0
    assert yaml.safe_load(out)["training"]["epochs"] == 4
    (tmp_path / "r.yaml").write_text(out)
    assert genrec("config", "--config", str(tmp_path / "r.yaml"))[1] == out
    assert "demo-baseline" in genrec("config", "--list")[1]


def test_compile_writes_yaml(genrec: Genrec, tmp_path: Path) -> None:
    code, out, _ = genrec("compile", "--out", str(tmp_path / "p.yaml"))
    assert code == 0
    assert str(tmp_path / "p.yaml") in out.replace("\n", "")
    assert (tmp_path / "p.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config"], "give one of --dataset, --recipe and --config"),
        (["config", "--dataset", "netflix"], "use one of"),
        (["config", "--dataset", "kuairand", "--set", "training.epochs"], "NAME=VALUE"),
        (["run", "--dataset", "kuairand", "--target", "moon"], "target 'moon' is unknown"),
        (["run", "--config", "absent.yaml"], "absent.yaml: cannot be read"),
        (["recommend"], "give --user or --history"),
        (["versions", "--model-name", "nobody"], "is not registered"),
        (["promote", "--model-name", "nobody"], "has no challenger"),
        (["rollback", "--model-name", "nobody"], "has no champion"),
        (["rollout", "--model-name", "nobody"], "neither a champion nor a challenger"),
        (["submit", "--host", "http://127.0.0.1:9", "--dataset", "kuairand"], "did not take"),
        (["bench", "serve", "--model", "models:/nobody@champion"], "has no alias"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    genrec: Genrec, arguments: list[str], message: str
) -> None:
    code, _, err = genrec(*arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_an_endpoint_that_is_not_there(genrec: Genrec) -> None:
    code, _, err = genrec("recommend", "--url", "http://127.0.0.1:9", "--user", "1")
    assert code == 1
    assert "does not answer" in err


def _bad_files(folder: Path, shop: Path) -> dict[str, tuple[Path, str]]:
    good = pl.read_csv(shop)
    now = good["ts"].max()
    assert isinstance(now, int)
    tables = {
        "empty": (good.head(0), ""),
        "columns": (good.drop("sku"), "sku"),
        "backwards": (good.with_columns(ts=-pl.col("ts") + 2 * now), "user"),
        "future": (good.with_columns(ts=pl.col("ts") + 10**9), "future"),
        "one-user": (good.filter(pl.col("uid") == 1), "user"),
        "one-item": (good.with_columns(sku=pl.lit("S1")), "item"),
    }
    files = {}
    for name, (table, message) in tables.items():
        table.write_csv(folder / f"{name}.csv")
        files[name] = (folder / f"{name}.csv", message)
    (folder / "nothing.csv").write_bytes(b"")
    (folder / "junk.parquet").write_bytes(b"\x00\x01junk")
    files["nothing"] = (folder / "nothing.csv", "nothing.csv")
    files["junk"] = (folder / "junk.parquet", "junk.parquet")
    files["absent"] = (folder / "absent.csv", "absent.csv")
    return files


@pytest.mark.slow
def test_bad_data_is_refused_before_anything_is_written(
    genrec: Genrec, shop: Path, tmp_path: Path
) -> None:
    for name, (path, message) in _bad_files(tmp_path, shop).items():
        out = tmp_path / "run"
        code, _, err = genrec(
            "run", "--dataset", "columns", "--path", str(path), *COLUMNS, "--out", str(out)
        )
        assert code == 2, (name, err)
        assert "step ingest" in err
        assert message.lower() in err.lower(), (name, err)
        assert not (out / "summary.json").exists()
        shutil.rmtree(out)


@pytest.mark.slow
def test_data_that_the_gate_refuses(genrec: Genrec, shop: Path, tmp_path: Path) -> None:
    few = pl.read_csv(shop).filter(pl.col("uid") < 5)
    few.write_csv(tmp_path / "few.csv")
    out = tmp_path / "run"
    code, _, err = genrec(
        "run",
        "--dataset",
        "columns",
        "--path",
        str(tmp_path / "few.csv"),
        *COLUMNS,
        "--out",
        str(out),
    )
    assert code == 2
    assert "step validate: the data gate refused the data" in err
    assert "expect_column_unique_value_count_to_be_between(user_id)" in err
    assert not (out / "summary.json").exists()
    assert (
        "expect_column_unique_value_count_to_be_between(user_id)"
        in (out / "validation.html").read_text()
    )
