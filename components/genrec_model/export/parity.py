"""Parity of another runtime with plain PyTorch, on real and on awkward histories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_model.artifact import Artifact
from genrec_model.errors import GateFailed
from genrec_model.export.padded import padded_inputs
from genrec_model.features.reserved import NUM_RESERVED, NUM_RESERVED_ACTIONS
from genrec_model.features.rows import Ints, UserRows, collate, history_rows, with_candidates

Array = npt.NDArray[Any]
#: A runtime: padded inputs by name, to the outputs ``user`` and ``tasks``.
Runtime = Callable[[Mapping[str, Ints]], tuple[Array, Array]]

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Differences between a runtime and plain PyTorch.

    Args:
        users: histories compared.
        scores: numbers compared.
        max_abs_error: largest difference of any output.
        spread: difference of the largest and the smallest task logit, to judge the error by.
    """

    users: int
    scores: int
    max_abs_error: float
    spread: float

    def require(self, what: str, *, absolute: float | None = None, share: float = 0.0) -> None:
        """Raise `GateFailed` when the error is above a bound, or not a number.

        Args:
            what: what was compared, for the message.
            absolute: bound of the error; by default `share` of the spread.
            share: see `absolute`.
        """
        bound = absolute if absolute is not None else share * self.spread
        if not self.max_abs_error <= bound:
            raise GateFailed(
                f"{what} differs from plain PyTorch by {self.max_abs_error:.2e}, more than "
                f"{bound:.2e}"
            )


def parity_users(artifact: Artifact, *, seed: int = 0) -> list[UserRows]:
    """Histories to compare on: the golden requests, and lengths at which code tends to break."""
    users = golden_users(artifact) if (artifact.path / "golden.json").is_file() else []
    config = artifact.config
    rng = np.random.default_rng(seed)
    for length in sorted({0, 1, 2, 15, 16, 17, config.max_history - 1, config.max_history}):
        if length > config.max_history:
            continue
        times = np.sort(rng.integers(1_000_000_000, 1_700_000_000, length))
        now = int(times[-1]) + 3600 if length else 1_700_000_000
        history = history_rows(
            rng.integers(NUM_RESERVED, config.num_items, length),
            rng.integers(NUM_RESERVED_ACTIONS, config.num_actions, length),
            times,
            now=now,
        )
        candidates = rng.integers(NUM_RESERVED, config.num_items, 1 + length % 9)
        users.append(with_candidates(history, candidates, now=now))
    return users


def golden_users(artifact: Artifact) -> list[UserRows]:
    """Rows of the golden requests, with the expected items as candidates."""
    items, actions = artifact.vocabulary.index_of, artifact.vocabulary.action_index_of
    users = []
    for request in artifact.golden:
        events, now = request["history"], request["now"]
        history = history_rows(
            np.array([items[event["item_id"]] for event in events], np.int64),
            np.array([actions[event["action"]] for event in events], np.int64),
            np.array([event["timestamp"] for event in events], np.int64),
            now=now,
        )
        wanted = np.array([items[item] for item in request["expected"]["items"]], np.int64)
        users.append(with_candidates(history, wanted, now=now))
    return users


def measure_parity(artifact: Artifact, users: list[UserRows], runtime: Runtime) -> Parity:
    """Run the users through the runtime, in padded batches of mixed lengths, and compare."""
    model = artifact.load_model()
    worst, count, logits = 0.0, 0, []
    for first in range(0, len(users), BATCH):
        batch = users[first : first + BATCH]
        user_out, task_out = runtime(padded_inputs(batch))
        for row, expected in enumerate(model.score(collate(batch))):
            wanted = np.concatenate([expected.user.numpy(), expected.tasks.numpy().ravel()])
            width = len(batch[row].candidates)
            found = np.concatenate([user_out[row].ravel(), task_out[row, :width].ravel()])
            difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
            worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max()))
            count += len(wanted)
            logits.append(expected.tasks.numpy().ravel())
    spread = np.concatenate(logits)
    return Parity(
        users=len(users),
        scores=count,
        max_abs_error=worst,
        spread=float(spread.max() - spread.min()) if len(spread) else 1.0,
    )
