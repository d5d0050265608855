"""Several vLLM engines, each in a process of its own, behind one interface.

Where there are several GPUs the engines are spread over them, each a replica of the model.

Scheduling a step and building its requests is Python, on one core, however fast the GPU is. More
engines use more cores. A user always goes to the same engine, whose cache holds the history.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import torch

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, EngineUnavailable
from genrec_model.features.rows import UserRows
from genrec_serving.engines.affinity import engine_of
from genrec_serving.engines.interface import Scored
from genrec_serving.engines.paged_engine import PagedEngine, fail, resolve
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.wire import BEAT, BEAT_S, READY, Ask, Reply, Start
from genrec_serving.vllm_plugin.item_cache_options import all_item_caches
from genrec_serving.vllm_plugin.memory_plan import all_splits
from genrec_serving.vllm_plugin.prompt import pack_bytes

logger = logging.getLogger(__name__)

_SECONDS_TO_CLOSE = 30
#: A large model's weights and graphs take minutes.
_SECONDS_TO_START = 900


class VllmProcess:
    """An engine in a child process, which dies with this one.

    Args:
        artifact: the model.
        version: salts the prefix cache.
        options: of the one engine.
        door: path of a socket at which others may ask it too.
        gpu: which of those that this process sees; None for the first, or none.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        version: str,
        options: VllmOptions,
        door: str | None = None,
        gpu: int | None = None,
    ) -> None:
        ours, theirs = socket.socketpair()
        # Not a fork: CUDA does not survive one, and vLLM wants a process to itself.
        self._child = subprocess.Popen(
            [sys.executable, "-m", "genrec_serving.engines.vllm_worker", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        # A process that hangs reads nothing: whoever writes to it may wait for ever, and that must
        # not be the server's event loop.
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._gate = threading.Lock()
        self._pending: dict[int, Future[Any]] = {}
        self._ids = itertools.count()
        self._end: str | None = None
        self._threads: list[threading.Thread] = []
        self._beat = 0.0
        self._stalled_s = 0.0
        start = Start(str(artifact.path), version, asdict(options), door, gpu)
        self._connection.send_bytes(msgspec.msgpack.encode(start))

    @property
    def healthy(self) -> bool:
        """False once the process ended."""
        return self._end is None

    @property
    def stalled_s(self) -> float:
        """As the engine says, or as long as it says nothing."""
        return self._stalled_s + max(time.monotonic() - self._beat - 2 * BEAT_S, 0.0)

    def wait_until_started(self) -> None:
        """Seconds.

        Raises:
            EngineUnavailable: vLLM is not installed.
            EngineError: it cannot start.
        """
        try:
            if not self._connection.poll(_SECONDS_TO_START):
                self.kill("engine vllm: its process did not start in time")
                raise EngineError(f"vllm: its process did not start in {_SECONDS_TO_START} s")
            first = msgspec.msgpack.decode(self._connection.recv_bytes(), type=Reply)
        except (EOFError, OSError) as error:
            raise EngineError(f"vllm: its process ended while it started ({error!r})") from error
        if first.id != READY:
            self.close()
            kind = EngineUnavailable if first.unavailable else EngineError
            raise kind(first.error or "vllm: it cannot start")
        self._beat = time.monotonic()
        for name, run in (("engine-replies", self._read), ("engine-requests", self._write)):
            thread = threading.Thread(target=run, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, rows: UserRows, kwargs: dict[str, Any]) -> Future[Scored]:
        """Send a request.

        Raises:
            EngineError: the process ended.
        """
        answer: Future[Scored] = Future()
        request_id = self._send(pack_bytes(rows), kwargs, answer)
        answer.add_done_callback(partial(self._answered, request_id))
        return answer

    def ask_statistics(self) -> Future[dict[str, Any]]:
        """Ask for the engine's statistics.

        Raises:
            EngineError: the process ended.
        """
        answer: Future[dict[str, Any]] = Future()
        self._send(b"", {}, answer)
        return answer

    def _answered(self, request_id: int, answer: Future[Scored]) -> None:
        if answer.cancelled() and self._pending.pop(request_id, None) is not None:
            self._outgoing.put(msgspec.msgpack.encode(Ask(request_id, dropped=True)))

    def _send(self, prompt: bytes, kwargs: dict[str, Any], answer: Future[Any]) -> int:
        request_id = next(self._ids)
        message = msgspec.msgpack.encode(Ask(request_id, prompt, kwargs))
        with self._gate:
            if self._end is not None:
                raise EngineError(self._end)
            self._pending[request_id] = answer
            self._outgoing.put(message)
        return request_id

    def kill(self, cause: str) -> None:
        """End a process that hangs, at once; who waits gets an error that says why."""
        self._child.kill()
        self._finish(cause)

    def close(self) -> None:
        """End the process; who waits gets an error."""
        self._finish("engine vllm: it was closed")
        try:
            self._child.wait(timeout=_SECONDS_TO_CLOSE)
        except subprocess.TimeoutExpired:
            logger.warning("engine vllm did not end in time and is killed")
            self._child.kill()
            self._child.wait()
        for thread in self._threads:
            thread.join(timeout=_SECONDS_TO_CLOSE)
        self._connection.close()

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(Reply)
        try:
            while True:
                reply = decoder.decode(self._connection.recv_bytes())
                self._beat = time.monotonic()
                if reply.id == BEAT:
                    self._stalled_s = reply.stalled_s
                    continue
                answer = self._pending.pop(reply.id, None)
                if answer is not None:
                    _settle(answer, reply)
        except (EOFError, OSError):
            self._finish("engine vllm: its process ended and must be started again")

    def _write(self) -> None:
        """The requests, one after another, until a None comes."""
        while (message := self._outgoing.get()) is not None:
            try:
                self._connection.send_bytes(message)
            except OSError:
                logger.debug("the process is gone, as the reader finds too")

    def _finish(self, end: str) -> None:
        with self._gate:
            if self._end is not None:
                return
            self._end = end
            waiting, self._pending = self._pending, {}
            self._outgoing.put(None)
        for answer in waiting.values():
            fail(answer, end)
        # The child sees the end of its input.
        ours = socket.socket(fileno=self._connection.fileno())
        try:
            ours.shutdown(socket.SHUT_RDWR)
        except OSError:
            logger.debug("the connection was gone already")
        finally:
            ours.detach()  # the connection closes it


class VllmProcesses(PagedEngine):
    """As many engines as `options.processes` says, at least one, each with its own users.

    Args:
        artifact: the model.
        version: salts the prefix caches.
        options: of all engines together.
        doors: paths of sockets at which others may ask the engines too, one for each.

    Raises:
        EngineUnavailable: vLLM is not installed.
        EngineError: one of them cannot start.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        version: str,
        options: VllmOptions,
        doors: Sequence[str] | None = None,
    ) -> None:
        count = options.processes or 1
        self._engines = [
            VllmProcess(
                artifact,
                version=version,
                options=options.of_process(number),
                door=door,
                gpu=gpu_of_engine(number, torch.cuda.device_count()),
            )
            for number, door in enumerate(doors or [None] * count)
        ]
        try:
            for engine in self._engines:
                engine.wait_until_started()
        except EngineError:
            self.close()
            raise

    @property
    def healthy(self) -> bool:
        """Whether all of them are: a part of the users is a part too few."""
        return all(engine.healthy for engine in self._engines)

    @property
    def stalled_s(self) -> float:
        """As the base class says, of the one that is worst."""
        return max(engine.stalled_s for engine in self._engines)

    def abandon(self, cause: str) -> None:
        """As the base class says: kills all processes."""
        for engine in self._engines:
            engine.kill(cause)

    def ask(self, rows: UserRows, kwargs: dict[str, Any]) -> Future[Scored]:
        """As the base class says."""
        return self._engine_of(rows).submit(rows, kwargs)

    async def statistics(self) -> dict[str, Any]:
        """As the base class says, of each process."""
        asked = [engine.ask_statistics() for engine in self._engines]
        answers = await asyncio.gather(*(asyncio.wrap_future(answer) for answer in asked))
        return all_statistics(answers)

    def close(self) -> None:
        """End all processes."""
        for engine in self._engines:
            engine.close()

    def _engine_of(self, rows: UserRows) -> VllmProcess:
        return self._engines[engine_of(rows, len(self._engines))]


def gpu_of_engine(number: int, gpus: int) -> int | None:
    """The GPU of an engine: as many engines on each as on the others, or one more.

    Args:
        number: of the engine.
        gpus: that there are.

    Returns:
        None where there is nothing to choose.
    """
    return number % gpus if gpus > 1 else None


def all_statistics(engines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Statistics of engines in processes of their own: of each, and of all."""
    return {
        "processes": list(engines),
        "item_cache": all_item_caches(engines),
        "memory_split": all_splits(engines),
    }


def _settle(answer: Future[Any], reply: Reply) -> None:
    if reply.error is not None:
        fail(answer, reply.error)
    else:
        resolve(answer, reply.scored() if reply.statistics is None else reply.statistics)
