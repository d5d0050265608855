"""Training learns, repeats itself, resumes, and never looks into the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from genrec_model.errors import ConfigError
from genrec_model.features.prepare import Features
from genrec_model.features.reserved import START
from genrec_model.hstu import HSTU, HSTUConfig
from genrec_model.training.loss import losses, sampled_softmax
from genrec_model.training.options import TrainingOptions
from genrec_model.training.run import model_config
from genrec_model.training.train import train
from genrec_model.training.windows import epoch_batches, make_batch, training_windows

OPTIONS = TrainingOptions(epochs=3, batch_rows=512, learning_rate=5e-3, validation_targets=300)


def small(features: Features) -> HSTUConfig:
    return model_config(
        features,
        {
            "hidden_size": 32,
            "num_layers": 1,
            "head_dim": 16,
            "max_history": 31,
            "chunk_size": 16,
            "norm_length": 32,
            "dropout": 0.1,
        },
    )


def test_it_learns_the_pattern(features: Features, tmp_path: Path) -> None:
    options = TrainingOptions(**{**OPTIONS.to_dict(), "epochs": 8})
    _, history = train(features, small(features), options, checkpoint=tmp_path / "c.pt")
    assert history[-1]["next_item_loss"] < 0.5 * history[0]["next_item_loss"]
    assert history[-1]["task_loss"] < history[0]["task_loss"]
    assert history[-1]["val_hr_10"] > 0.9


def test_the_same_seed_gives_the_same_weights(features: Features, tmp_path: Path) -> None:
    runs = [
        train(features, small(features), OPTIONS, checkpoint=tmp_path / f"{i}.pt")[0]
        for i in range(2)
    ]
    for name, value in runs[0].state_dict().items():
        assert torch.equal(value, runs[1].state_dict()[name]), name


def test_a_killed_training_goes_on(features: Features, tmp_path: Path) -> None:
    whole, history = train(features, small(features), OPTIONS, checkpoint=tmp_path / "whole.pt")

    class KilledError(Exception):
        pass

    def kill(epoch: int, record: dict[str, float]) -> None:
        if epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(features, small(features), OPTIONS, checkpoint=tmp_path / "k.pt", on_epoch=kill)
    seen: list[int] = []
    resumed, again = train(
        features,
        small(features),
        OPTIONS,
        checkpoint=tmp_path / "k.pt",
        on_epoch=lambda epoch, _: seen.append(epoch),
    )
    assert seen == [3]
    assert [r["next_item_loss"] for r in again] == [r["next_item_loss"] for r in history]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_training_is_not_used(features: Features, tmp_path: Path) -> None:
    one = TrainingOptions(**{**OPTIONS.to_dict(), "epochs": 1})
    train(features, small(features), one, checkpoint=tmp_path / "c.pt")
    other = TrainingOptions(**{**one.to_dict(), "seed": 8})
    seen: list[int] = []
    train(
        features,
        small(features),
        other,
        checkpoint=tmp_path / "c.pt",
        on_epoch=lambda epoch, _: seen.append(epoch),
    )
    assert seen == [1]


def test_windows_cover_the_training_period_once(features: Features) -> None:
    sequences, split = features.sequences(), features.dataset.split
    windows = training_windows(sequences, split, 31)
    covered = np.zeros(len(sequences.items), int)
    for window in windows:
        assert 0 < window.stop - window.start <= 31
        covered[window.start : window.stop] += 1
    assert (covered == (sequences.timestamps < split.validation)).all()
    rng = np.random.default_rng(0)
    rows = sum(
        int((batch.rows.items != START).sum()) - len(batch.task_rows)
        for batch in epoch_batches(sequences, windows, split, OPTIONS, rng)
    )
    assert rows == covered.sum()


def test_targets_and_labels_of_a_batch(features: Features) -> None:
    sequences, split = features.sequences(), features.dataset.split
    windows = training_windows(sequences, split, 31)[:5]
    batch = make_batch(sequences, windows, split, 100, np.random.default_rng(0))
    rows = batch.rows
    # The row before an event predicts it, and a candidate row shows the event that it repeats.
    next_rows = (batch.next_rows + 1).clamp(max=len(rows.items) - 1)
    assert torch.equal(rows.items[next_rows], batch.next_items)
    for row in batch.task_rows.tolist():
        sequence = int(torch.searchsorted(rows.layout.offsets, row, right=True)) - 1
        first = int(rows.layout.offsets[sequence])
        event = first + int(rows.positions[row])
        assert rows.items[event] == rows.items[row]
        assert rows.timestamps[event] == rows.timestamps[row]
        assert rows.actions[row] == 0


def test_labels_that_only_the_future_tells_are_not_used(features: Features) -> None:
    sequences, split = features.sequences(), features.dataset.split
    windows = training_windows(sequences, split, 31)
    used = unused = 0
    for window in windows:
        batch = make_batch(sequences, [window], split, 10**6, np.random.default_rng(0))
        retention = features.tasks.index("retention")
        used += int(batch.known[:, retention].sum())
        events = np.arange(window.start, window.stop)
        known = sequences.labels[events, retention] >= 0
        unused += int((known & (sequences.known_at[events, retention] >= split.validation)).sum())
        assert used + unused >= known.sum() - unused
    total = (sequences.labels[:, 1] >= 0) & (sequences.timestamps < split.validation)
    assert unused > 0
    assert used == total.sum() - unused


def test_sampled_softmax_nears_the_full_one(features: Features) -> None:
    config = small(features)
    torch.manual_seed(0)
    model = HSTU(config).eval()
    user = model.user_embedding(torch.randn(50, 32))
    targets = torch.randint(3, config.num_items, (50,))
    full = torch.nn.functional.cross_entropy(model.catalogue_scores(user), targets)
    few = sampled_softmax(model, user, targets, 4)
    many = sampled_softmax(model, user, targets, 4000)
    assert few < full  # fewer rivals
    # With every item drawn about 4000 / 24 times, the loss grows by the logarithm of that.
    expected = full + np.log(4000 / (config.num_items - 3))
    assert abs(float((many - expected).detach())) < 0.1


def test_losses_of_a_batch_without_labels(features: Features) -> None:
    sequences, split = features.sequences(), features.dataset.split
    windows = training_windows(sequences, split, 31)[:2]
    batch = make_batch(sequences, windows, split, 0, np.random.default_rng(0))
    loss = losses(HSTU(small(features)), batch, num_negatives=0)
    assert loss.tasks.item() == 0.0
    assert torch.isfinite(loss.next_item)


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("learning_rate", 0.0), ("num_negatives", -1)]
)
def test_impossible_options(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"training.{name}"):
        TrainingOptions(**{name: value})  # type: ignore[arg-type]


def test_options_that_follow_from_the_data(features: Features) -> None:
    for name in ("num_items", "nonsense"):
        with pytest.raises(ConfigError, match=f"model.{name}"):
            model_config(features, {name: 3})


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert TrainingOptions().torch_device() == torch.device("cpu")
    with pytest.raises(ConfigError, match="no GPU"):
        TrainingOptions(device="cuda").torch_device()
    with pytest.raises(ConfigError, match="use auto, cpu or cuda"):
        TrainingOptions(device="tpu")
