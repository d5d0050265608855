"""A registry and caches of their own for every module that runs commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_model.settings import settings


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENREC_HOME", str(folder))
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "GENREC_TRACKING_URI"):
            patch.delenv(name, raising=False)
        settings.cache_clear()
        yield folder
    settings.cache_clear()


@pytest.fixture
def genrec(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        from genrec_pipelines.cli import main

        monkeypatch.setattr("sys.argv", ["genrec", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file of 80 users who walk through 60 items in order."""
    rng = np.random.default_rng(0)
    frames = []
    for user in range(80):
        events = 30
        items = (rng.integers(60) + np.arange(events)) % 60
        gaps = rng.choice([30, 40_000, 400_000], events, p=[0.5, 0.3, 0.2])
        frames.append(
            pl.DataFrame(
                {
                    "uid": np.full(events, user),
                    "sku": [f"S{item:02d}" for item in items],
                    "ts": 1_600_000_000 + rng.integers(10_000) + gaps.cumsum(),
                    "spend": (items % 5).astype(float),
                }
            )
        )
    path = tmp_path_factory.mktemp("shop") / "events.csv"
    pl.concat(frames).write_csv(path)
    return path
