"""The child of `vllm_processes`: one engine that answers what comes through a socket.

``python -m genrec_serving.engines.vllm_worker FD``
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np
import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, EngineUnavailable, GenrecError
from genrec_serving.engines.interface import Scored
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.wire import BEAT, BEAT_S, FAILED, READY, Ask, Reply, Start
from genrec_serving.vllm_plugin.prompt import ROW_WIDTH

logger = logging.getLogger(__name__)


class Worker:
    """Reads requests, and sends answers as the engine's thread makes them.

    Args:
        connection: to the parent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._answers: dict[int, Future[Scored]] = {}

    def run(self) -> int:
        """Serve until the parent goes away; the exit status."""
        start = msgspec.msgpack.decode(self._connection.recv_bytes(), type=Start)
        try:
            engine = VllmEngine(
                Artifact(Path(start.artifact)),
                version=start.version,
                options=VllmOptions(**start.options),
            )
        except GenrecError as error:
            unavailable = isinstance(error, EngineUnavailable)
            self._send(Reply(FAILED, error=str(error), unavailable=unavailable))
            return 1
        self._send(Reply(READY))
        ended = threading.Event()
        beats = threading.Thread(target=self._beat, args=(engine, ended), daemon=True)
        beats.start()
        decoder = msgspec.msgpack.Decoder(Ask)
        try:
            while True:
                self._take(engine, decoder.decode(self._connection.recv_bytes()))
        except (EOFError, OSError):
            logger.info("the server is gone")
        finally:
            ended.set()
            engine.close()
        return 0

    def _beat(self, engine: VllmEngine, ended: threading.Event) -> None:
        """Say how the engine does, until the end. A process that hangs whole says nothing."""
        while not ended.wait(BEAT_S):
            self._send(Reply(BEAT, stalled_s=engine.stalled_s))

    def _take(self, engine: VllmEngine, ask: Ask) -> None:
        if ask.dropped:
            if (dropped := self._answers.get(ask.id)) is not None:
                dropped.cancel()
            return
        if not ask.prompt:
            self._send(self._statistics(engine, ask.id))
            return
        # A copy, as PyTorch wants memory that may be written.
        words = np.frombuffer(ask.prompt, np.float32).reshape(-1, ROW_WIDTH).copy()
        try:
            answer = engine.submit(torch.from_numpy(words), ask.kwargs)
        except EngineError as error:
            self._send(Reply(ask.id, error=str(error)))
            # The parent starts a dead engine again with its process.
            raise EOFError from error
        self._answers[ask.id] = answer
        answer.add_done_callback(partial(self._answer, ask.id))

    def _statistics(self, engine: VllmEngine, request_id: int) -> Reply:
        try:
            return Reply(request_id, statistics=engine.current_statistics())
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

    def _send(self, reply: Reply) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(msgspec.msgpack.encode(reply))
        except OSError:
            logger.debug("the server is gone")


def main() -> int:
    """Serve the socket whose descriptor is the only argument."""
    # Ctrl-C goes to the whole group; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Worker(Connection(int(sys.argv[1]))).run()


if __name__ == "__main__":
    sys.exit(main())
