"""One who asks an engine from another process: asks come in, replies go out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch

from genrec_model.errors import EngineError
from genrec_serving.engines.interface import Scored
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.wire import Ask, Reply
from genrec_serving.vllm_plugin.prompt import ROW_WIDTH


class Asker:
    """Gives an engine what one connection asks, and the connection what the engine answers.

    Args:
        engine: that is asked.
        send: takes replies, from any thread; it must not wait long, as the engine's thread does.
    """

    def __init__(self, engine: VllmEngine, send: Callable[[Reply], None]) -> None:
        self._engine = engine
        self._send = send
        self._answers: dict[int, Future[Scored]] = {}

    def take(self, ask: Ask) -> None:
        """Do what is asked; replies come later.

        Raises:
            EngineError: the engine failed, and must be started again with its process.
        """
        if ask.dropped:
            if (dropped := self._answers.get(ask.id)) is not None:
                dropped.cancel()
            return
        if not ask.prompt:
            self._send(self._statistics(ask.id))
            return
        # A copy, as PyTorch wants memory that may be written.
        words = np.frombuffer(ask.prompt, np.float32).reshape(-1, ROW_WIDTH).copy()
        try:
            answer = self._engine.submit(torch.from_numpy(words), ask.kwargs)
        except EngineError as error:
            self._send(Reply(ask.id, error=str(error)))
            raise
        self._answers[ask.id] = answer
        answer.add_done_callback(partial(self._answer, ask.id))

    def leave(self) -> None:
        """Nobody waits for any answer any more."""
        for answer in list(self._answers.values()):
            answer.cancel()

    def _statistics(self, request_id: int) -> Reply:
        try:
            return Reply(request_id, statistics=self._engine.current_statistics())
        except EngineError as error:
            return Reply(request_id, error=str(error))

    def _answer(self, request_id: int, answer: Future[Scored]) -> None:
        self._answers.pop(request_id, None)
        if answer.cancelled():
            return
        error = answer.exception()
        if error is not None:
            self._send(Reply(request_id, error=str(error)))
            return
        scored = answer.result()
        self._send(
            Reply(
                request_id,
                items=scored.items.tobytes(),
                scores=scored.scores.tobytes(),
                task_logits=scored.task_logits.tobytes(),
                tasks=scored.task_logits.shape[1],
                cached_rows=scored.cached_rows,
            )
        )
