"""Fixtures that several packages' tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from genrec_model.artifact import Artifact, DatasetInfo
from genrec_model.data.spec import DatasetSpec, TaskRule, TaskSpec
from genrec_model.features.split import TimeSplit
from genrec_model.features.vocabulary import Vocabulary
from genrec_model.hstu import HSTU, HSTUConfig

TINY_SPEC = DatasetSpec(
    name="tiny",
    title="Tiny shop",
    actions=("view", "buy"),
    tasks=(
        TaskSpec(
            name="engagement",
            rule=TaskRule(kind="action_in", actions=("buy",)),
            description="buys the item",
        ),
        TaskSpec(
            name="retention",
            rule=TaskRule(kind="returns_within", min_gap_s=60, horizon_s=86_400),
            description="is back within a day",
        ),
    ),
    unlabelled={"monetization": "the shop does not tell its prices"},
    exclude_seen=True,
    value_unit="none",
    licence="CC0",
)


@pytest.fixture(scope="session")
def tiny_spec() -> DatasetSpec:
    return TINY_SPEC


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model of random weights, large enough that every part of it shows in the scores.

    50 items with the ids 1000, 1001, ...; at most 47 events (48 rows: three pages of 16).
    """
    items = pl.DataFrame(
        {
            "item_id": np.arange(1000, 1050),
            "title": [f"Thing {i}" for i in range(50)],
            "train_count": np.arange(50, 0, -1),
        }
    )
    vocabulary = Vocabulary(items, TINY_SPEC.actions)
    config = HSTUConfig(
        num_items=vocabulary.num_items,
        num_actions=vocabulary.num_actions,
        tasks=TINY_SPEC.task_names,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        head_dim=16,
        max_history=47,
        chunk_size=16,
        norm_length=48,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = HSTU(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
    return Artifact.create(
        Path(tmp_path_factory.mktemp("artifact")) / "tiny",
        model=model,
        vocabulary=vocabulary,
        dataset=DatasetInfo(
            spec=TINY_SPEC,
            digest="sha256:0",
            split=TimeSplit(validation=1_600_000_000, test=1_650_000_000),
            num_events=1000,
            num_users=100,
        ),
        training={},
    )
