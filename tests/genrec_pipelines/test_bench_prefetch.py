"""`genrec bench prefetch` with a small model of random weights."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from genrec_model.artifact import Artifact
from genrec_model.data.catalog import load_dataset
from genrec_model.errors import ConfigError
from genrec_model.features.prepare import prepare_features
from genrec_model.hstu import HSTU
from genrec_model.training.run import model_config
from genrec_pipelines.commands.bench_prefetch import BATCH, SHOWN, TOPS, predict, prefetch


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set and a model of it."""
    folder = Path(tmp_path_factory.mktemp("ml"))
    rng = np.random.default_rng(0)
    count = 2000
    pl.DataFrame(
        {
            "user": np.arange(count) % 20,
            "movie": rng.permutation(count) % 90,
            "rating": np.full(count, 5),
            "pos": np.arange(count) // 20,
            "timestamp": 1_000_000 + np.arange(count) * 97,
        }
    ).write_parquet(folder / "ratings.parquet")
    dataset = load_dataset("movielens", path=folder)
    features = prepare_features(dataset, folder / "features")
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 1, "head_dim": 8}
    model = HSTU(model_config(features, shape)).eval()
    Artifact.create(
        folder / "artifact",
        model=model,
        vocabulary=features.vocabulary,
        dataset=features.dataset,
        training={},
    )
    return folder, folder / "artifact"


def run(trained: tuple[Path, Path], records: Path, *more: str) -> Result:
    app = typer.Typer()
    app.command()(prefetch)
    arguments = ["--dataset", "movielens", "--path", str(trained[0])]
    arguments += ["--artifact", str(trained[1]), "--records", str(records), *more]
    return CliRunner().invoke(app, arguments)


def test_writes_records(trained: tuple[Path, Path], tmp_path: Path) -> None:
    result = run(trained, tmp_path / "r.csv", "--sizes", "0.2")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert len(rows) == 2 * 2 * len(TOPS)
    assert {row["batches"] for row in rows} == {str(400 // BATCH)}
    assert all(0 <= float(row["unique_hit_rate"]) <= 1 for row in rows)


def test_predictions_are_those_of_the_model(trained: tuple[Path, Path]) -> None:
    artifact = Artifact(trained[1])
    found = predict(artifact, "movielens", trained[0])
    assert found.shown.shape == (len(found.before), SHOWN) == (400, SHOWN)
    # No item twice, none that is no item, and not what the user has just seen.
    assert all(len(set(shown)) == SHOWN for shown in found.shown.tolist())
    assert found.shown.min() > 0
    assert not (found.shown == found.before[:, None]).any()
    assert 0 <= found.hits <= 1


def test_another_data_set(trained: tuple[Path, Path], tmp_path: Path, tiny_artifact) -> None:
    result = run((trained[0], tiny_artifact.path), tmp_path / "r.csv")
    assert isinstance(result.exception, ConfigError)
    assert "was trained on tiny" in str(result.exception)
