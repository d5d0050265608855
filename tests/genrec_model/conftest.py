"""A small data set with a pattern that a model can learn in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from genrec_model.data.dataset import Dataset, items_of
from genrec_model.data.spec import DatasetSpec
from genrec_model.features.prepare import Features, prepare_features
from genrec_model.settings import settings

START = 1_600_000_000


def cyclic_dataset(spec: DatasetSpec, *, users: int = 60, events: int = 40) -> Dataset:
    """Each user walks through 24 items in order, buys the even ones, and pauses now and then."""
    rng = np.random.default_rng(0)
    frames = []
    for user in range(users):
        items = (rng.integers(24) + np.arange(events)) % 24
        # All users are active over the whole period, so that a split by time cuts each of them.
        gaps = rng.choice([30, 40_000, 400_000], events, p=[0.5, 0.3, 0.2])
        frames.append(
            pl.DataFrame(
                {
                    "user_id": np.full(events, user),
                    "item_id": 1000 + items,
                    "timestamp": START + rng.integers(10_000) + gaps.cumsum(),
                    "action": np.where(items % 2 == 0, "buy", "view"),
                    "value": np.ones(events, np.float32),
                }
            )
        )
    table = pl.concat(frames)
    return Dataset(spec=spec, events=table, items=items_of(table))


@pytest.fixture(scope="session")
def cyclic(tiny_spec: DatasetSpec) -> Dataset:
    return cyclic_dataset(tiny_spec)


@pytest.fixture(scope="session")
def features(cyclic: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Features:
    return prepare_features(cyclic, tmp_path_factory.mktemp("features") / "made")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Settings with a home of their own: another registry, other checkpoints."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "home"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "GENREC_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()
