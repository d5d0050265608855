"""What the model promises: who sees whom, and that the same weights score alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import ArtifactError, ConfigError
from genrec_model.features.rows import UserRows, collate, history_rows, with_candidates
from genrec_model.hstu import HSTU, HSTUConfig

NOW = 1_700_000_000


def user(length: int, candidates: list[int], seed: int = 0) -> UserRows:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(NOW - 10**7, NOW, length))
    history = history_rows(rng.integers(3, 53, length), rng.integers(2, 4, length), times, now=NOW)
    return with_candidates(history, np.array(candidates, np.int64), now=NOW)


@pytest.fixture(scope="module")
def model(tiny_artifact: Artifact) -> HSTU:
    return tiny_artifact.load_model()


def test_scores_do_not_depend_on_batch_mates(model: HSTU) -> None:
    users = [user(0, [5]), user(47, [7, 8, 9], seed=1), user(16, [], seed=2)]
    for together, alone in zip(model.score(collate(users)), users, strict=True):
        single = model.score(collate([alone]))[0]
        torch.testing.assert_close(together.user, single.user, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.tasks, single.tasks, rtol=1e-5, atol=1e-5)


def test_candidates_do_not_see_each_other(model: HSTU) -> None:
    many = model.score(collate([user(20, [5, 6, 7, 8])]))[0].tasks
    for place, item in enumerate([5, 6, 7, 8]):
        one = model.score(collate([user(20, [item])]))[0].tasks[0]
        torch.testing.assert_close(many[place], one, rtol=1e-5, atol=1e-5)


def test_every_part_of_an_event_counts(model: HSTU) -> None:
    base = user(20, [5])
    before = model.score(collate([base]))[0].tasks
    for name in ("items", "actions", "timestamps"):
        changed = getattr(base, name).copy()
        changed[4] = {"items": 9, "actions": 5 - changed[4], "timestamps": changed[4] - 90_000}[
            name
        ]
        other = model.score(collate([UserRows(**{**vars(base), name: changed})]))[0].tasks
        assert not torch.allclose(before, other, atol=1e-4), name


def test_the_past_does_not_see_the_future(model: HSTU) -> None:
    long, short = user(30, []), user(30, [])
    short = UserRows(
        items=short.items[:11], actions=short.actions[:11], timestamps=short.timestamps[:11]
    )
    with torch.inference_mode():
        torch.testing.assert_close(
            model(collate([long]))[:11], model(collate([short])), rtol=1e-5, atol=1e-5
        )


def test_reserved_items_are_never_retrieved(model: HSTU) -> None:
    with torch.inference_mode():
        scores = model.catalogue_scores(model.score(collate([user(5, [])]))[0].user)
    assert scores[:3].isneginf().all()
    assert scores[3:].isfinite().all()


def test_a_model_without_bias_ignores_times(tiny_artifact: Artifact) -> None:
    config = HSTUConfig.from_dict({**tiny_artifact.config.to_dict(), "relative_bias": False})
    model = HSTU(config).eval()
    base = user(20, [5])
    later = UserRows(**{**vars(base), "timestamps": base.timestamps + 12_345})
    torch.testing.assert_close(
        model.score(collate([base]))[0].tasks, model.score(collate([later]))[0].tasks
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_layers", 0), ("chunk_size", 1000), ("temperature", 0.0), ("dropout", 1.0)],
)
def test_impossible_shapes_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"model.{name} is"):
        HSTUConfig(num_items=9, num_actions=3, tasks=(), **{name: value})  # type: ignore[arg-type]


def test_configuration_survives_its_file(tiny_artifact: Artifact) -> None:
    config = tiny_artifact.config
    assert HSTUConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ArtifactError, match="model_type"):
        HSTUConfig.from_dict({"model_type": "bert"})
