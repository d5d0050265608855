"""Engines that keep nothing between requests: each history is computed whole, each time.

Letters in shapes: W hidden width, c candidates, T tasks.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from genrec_model.errors import EngineError
from genrec_model.features.rows import Ints, UserRows, with_candidates
from genrec_serving.engines.interface import (
    RankCall,
    RecommendCall,
    Scored,
    ScoringEngine,
    describe,
)
from genrec_serving.next_item import NextItem

Call = TypeVar("Call", RecommendCall, RankCall)


class UserOutput(NamedTuple):
    """What a model says about one user.

    user: float32 [W], unit vector for retrieval.
    task_logits: float32 [c, T].
    """

    user: Tensor
    task_logits: Tensor


class StatelessEngine(ScoringEngine):
    """Retrieval and ranking over a function from rows to a user vector and task logits.

    Args:
        next_item: scores over the catalogue.
    """

    def __init__(self, next_item: NextItem) -> None:
        self._next_item = next_item
        # One at a time: the library below has threads of its own.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"engine-{self.name}")

    @abstractmethod
    def run(self, rows: UserRows) -> UserOutput:
        """Score one user's rows; called in a thread of its own."""

    async def recommend(self, call: RecommendCall) -> Scored:
        """As the base class says; the history is computed twice."""
        return await self._in_thread(self._recommend, call)

    async def rank(self, call: RankCall) -> Scored:
        """As the base class says."""
        return await self._in_thread(self._rank, call)

    def close(self) -> None:
        """Stop the thread."""
        self._executor.shutdown(cancel_futures=True)

    async def _in_thread(self, function: Callable[[Call], Scored], call: Call) -> Scored:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function, call)
        except Exception as error:
            # Whatever the library below raises, its caller knows one kind of failure.
            raise EngineError(f"engine {self.name}: {describe(error)}") from error

    def _recommend(self, call: RecommendCall) -> Scored:
        user_W = self.run(call.rows).user
        top = self._next_item.best(
            user_W[None],
            k=call.k,
            exclude=torch.from_numpy(call.exclude)[None],
            allow=None if call.allow is None else torch.from_numpy(call.allow),
        )
        found = top.items[0] >= 0
        items = top.items[0][found].numpy()
        logits = self.run(with_candidates(call.rows, items, now=call.now)).task_logits
        return _scored(items, top.scores[0][found], logits)

    def _rank(self, call: RankCall) -> Scored:
        output = self.run(with_candidates(call.rows, call.candidates, now=call.now))
        scores = self._next_item.scores_of(output.user, torch.from_numpy(call.candidates))
        return _scored(call.candidates, scores, output.task_logits)


def _scored(items: Ints, scores: Tensor, task_logits: Tensor) -> Scored:
    return Scored(items=items, scores=scores.numpy(), task_logits=task_logits.numpy())
