"""The training loop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from genrec_model.evaluation.retrieval import evaluate_retrieval, retrieval_targets
from genrec_model.features.prepare import Features
from genrec_model.features.sequences import UserSequences
from genrec_model.hstu import HSTU, HSTUConfig
from genrec_model.progress import progress
from genrec_model.training.checkpoint import TrainingState, fingerprint
from genrec_model.training.loss import losses
from genrec_model.training.options import TrainingOptions
from genrec_model.training.windows import Window, epoch_batches, training_windows

logger = logging.getLogger(__name__)

#: Called after each epoch with its record.
OnEpoch = Callable[[int, dict[str, float]], None]


def train(
    features: Features,
    config: HSTUConfig,
    options: TrainingOptions,
    *,
    checkpoint: Path,
    on_epoch: OnEpoch | None = None,
) -> tuple[HSTU, list[dict[str, float]]]:
    """Train a model; a checkpoint of the same training is continued.

    Args:
        features: what the feature step made.
        config: shape of the model.
        options: how to train.
        checkpoint: file of the checkpoint.
        on_epoch: called after each epoch, with the epoch and its record.

    Returns:
        The model with the weights of its best epoch (NDCG@10 on the validation period), in
        evaluation mode, and one record an epoch.
    """
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    device = options.torch_device()
    model = HSTU(config).to(device)
    logger.info("training on %s", device)
    sequences = features.sequences()
    split = features.dataset.split
    windows = training_windows(sequences, split, config.max_history)
    targets = retrieval_targets(
        sequences,
        start=split.validation,
        stop=split.test,
        limit=options.validation_targets,
        seed=options.seed,
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(options, windows))
    mark = fingerprint(features.dataset.to_dict(), config.to_dict(), options.to_dict())
    state = TrainingState.load(checkpoint, mark)
    if state is None:
        state = _snapshot(mark, 0, model, optimizer, scheduler, rng)
    else:
        logger.info("resuming after epoch %d of %d", state.epoch, options.epochs)
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        scheduler.load_state_dict(state.scheduler)
        torch.set_rng_state(state.generator)
        rng.bit_generator.state = state.numpy_state

    for epoch in range(state.epoch + 1, options.epochs + 1):
        started = time.perf_counter()
        record = _train_epoch(
            model, sequences, windows, features, options, rng, optimizer, scheduler, epoch
        )
        metrics = evaluate_retrieval(
            model.eval(), sequences, targets, exclude_seen=features.dataset.spec.exclude_seen
        ).metrics
        record |= {"val_ndcg_10": metrics["ndcg_10"], "val_hr_10": metrics["hr_10"]}
        record["seconds"] = time.perf_counter() - started
        history = [*state.history, record]
        best, best_metric = state.best, state.best_metric
        if record["val_ndcg_10"] > best_metric:
            best = {name: value.clone() for name, value in model.state_dict().items()}
            best_metric = record["val_ndcg_10"]
        state = _snapshot(mark, epoch, model, optimizer, scheduler, rng)
        state.history, state.best, state.best_metric = history, best, best_metric
        state.save(checkpoint)
        logger.info(
            "epoch %d: next-item loss %.3f, task loss %.3f, validation HR@10 %.4f NDCG@10 %.4f",
            epoch,
            record["next_item_loss"],
            record["task_loss"],
            record["val_hr_10"],
            record["val_ndcg_10"],
        )
        if on_epoch is not None:
            on_epoch(epoch, record)
    model.load_state_dict(state.best)
    return model.cpu().eval(), state.history


def _train_epoch(
    model: HSTU,
    sequences: UserSequences,
    windows: list[Window],
    features: Features,
    options: TrainingOptions,
    rng: np.random.Generator,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
) -> dict[str, float]:
    model.train()
    totals = np.zeros(3)
    rows = sum(window.stop - window.start for window in windows)
    with progress(f"epoch {epoch}/{options.epochs}", rows) as advance:
        for batch in epoch_batches(sequences, windows, features.dataset.split, options, rng):
            loss = losses(model, batch.to(model.device), num_negatives=options.num_negatives)
            optimizer.zero_grad(set_to_none=True)
            (loss.next_item + options.task_weight * loss.tasks).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            weight = len(batch.next_items)
            totals += np.array([loss.next_item.item(), loss.tasks.item(), 1.0]) * weight
            lengths = batch.rows.layout.history_lengths
            advance(int(lengths.sum()) - len(lengths))
    next_item, tasks, _ = totals / totals[2]
    return {"next_item_loss": float(next_item), "task_loss": float(tasks)}


def _schedule(options: TrainingOptions, windows: list[Window]) -> Callable[[int], float]:
    rows = sum(window.stop - window.start for window in windows)
    steps = max(options.epochs * math.ceil(rows / options.batch_rows), 1)
    warm_up = max(steps // 10, 1)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        share = min((step - warm_up) / max(steps - warm_up, 1), 1.0)
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share))

    return factor


def _snapshot(
    mark: str,
    epoch: int,
    model: HSTU,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    rng: np.random.Generator,
) -> TrainingState:
    return TrainingState(
        fingerprint=mark,
        epoch=epoch,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        scheduler=scheduler.state_dict(),
        generator=torch.get_rng_state(),
        numpy_state=dict(rng.bit_generator.state),
    )
