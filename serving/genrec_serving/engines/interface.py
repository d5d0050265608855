"""What every engine does: rows of one user in, items with scores and task logits out.

Letters in shapes: n items of the answer, c candidates, T tasks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from genrec_model.features.rows import Ints, UserRows

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RecommendCall:
    """The best items of the catalogue for one user.

    Args:
        rows: history cut to the model's length, start row first, no candidates.
        now: unix seconds, when the items would be shown.
        k: most items to give, at least 1.
        exclude: int64, rows of the item table to leave out.
        allow: int64, the only rows to consider; None for all.
    """

    rows: UserRows
    now: int
    k: int
    exclude: Ints
    allow: Ints | None = None


@dataclass(frozen=True, kw_only=True)
class RankCall:
    """Scores of given items for one user.

    Args:
        rows: history cut to the model's length, start row first, no candidates.
        now: unix seconds, when the items would be shown.
        candidates: int64 [c], rows of the item table.
    """

    rows: UserRows
    now: int
    candidates: Ints


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What an engine found.

    Args:
        items: int64 [n], rows of the item table; best next-item score first in a recommendation,
            in the order of the call in a ranking.
        scores: float32 [n], next-item logits.
        task_logits: float32 [n, T].
        cached_rows: history rows that the engine did not compute again.
    """

    items: Ints
    scores: Floats
    task_logits: Floats
    cached_rows: int = 0


class ScoringEngine(ABC):
    """An engine that has a model loaded. Safe to call from many tasks at once."""

    #: As a request or an answer names it.
    name: str

    @property
    def healthy(self) -> bool:
        """Whether it can still answer; an engine that died stays dead."""
        return True

    @property
    def given_up(self) -> bool:
        """Whether it will never answer again in this process."""
        return False

    def describe(self) -> dict[str, Any] | None:
        """How it lives, for `/v1/stats`; None for an engine that nobody watches."""
        return None

    @property
    def stalled_s(self) -> float:
        """Seconds since which it has work and finishes none of it; 0 where nobody looks."""
        return 0.0

    @abstractmethod
    async def recommend(self, call: RecommendCall) -> Scored:
        """The best items that the filters leave, which may be fewer than k.

        Raises:
            EngineError: the engine failed.
        """

    @abstractmethod
    async def rank(self, call: RankCall) -> Scored:
        """Scores of the candidates.

        Raises:
            EngineError: the engine failed.
        """

    async def statistics(self) -> dict[str, Any]:
        """What an operator would look at, by name; nothing for an engine that keeps nothing.

        Raises:
            EngineError: the engine does not answer.
        """
        return {}

    def close(self) -> None:  # noqa: B027  # most engines hold nothing that needs it
        """Give back what the engine holds; it answers no more.

        Raises:
            EngineError: it does not end, and keeps what it holds.
        """

    def abandon(self, cause: str) -> None:  # noqa: B027  # most engines are not watched
        """Fail all that waits for an engine that hangs, without waiting for it.

        Args:
            cause: message of the `EngineError` that they get.
        """


def describe(error: BaseException) -> str:
    """A library's exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
