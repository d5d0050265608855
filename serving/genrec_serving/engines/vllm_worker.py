"""The child of `vllm_processes`: one engine that answers what comes through sockets.

``python -m genrec_serving.engines.vllm_worker FD``
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, EngineUnavailable, GenrecError
from genrec_serving.engines.asker import Asker
from genrec_serving.engines.door import Door
from genrec_serving.engines.probe import probe
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.vllm_environment import use_gpu
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.wire import BEAT, BEAT_S, FAILED, READY, Ask, Reply, Start

logger = logging.getLogger(__name__)


class Worker:
    """Reads requests, and sends answers as the engine's thread makes them.

    Args:
        connection: to the parent.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()

    def run(self) -> int:
        """Serve until the parent goes away; the exit status."""
        start = msgspec.msgpack.decode(self._connection.recv_bytes(), type=Start)
        if start.gpu is not None:
            use_gpu(start.gpu)
        try:
            engine = VllmEngine(
                Artifact(Path(start.artifact)),
                version=start.version,
                options=VllmOptions(**start.options),
            )
            # Its first request makes CUDA graphs, and compiles kernels: no user's should.
            asyncio.run(probe(engine, now=int(time.time())))
            if start.door is not None:
                _open_door(start.door, engine, self)
        except GenrecError as error:
            unavailable = isinstance(error, EngineUnavailable)
            self._send(Reply(FAILED, error=str(error), unavailable=unavailable))
            return 1
        self._send(Reply(READY))
        ended = threading.Event()
        beats = threading.Thread(target=self._beat, args=(engine, ended), daemon=True)
        beats.start()
        decoder, asker = msgspec.msgpack.Decoder(Ask), Asker(engine, self._send)
        try:
            while True:
                asker.take(decoder.decode(self._connection.recv_bytes()))
        except (EOFError, OSError):
            logger.info("the server is gone")
        except EngineError as error:
            # The parent starts a dead engine again with its process.
            logger.info("the engine is gone: %s", error)
        finally:
            ended.set()
            engine.close()
        return 0

    def end(self) -> None:
        """Let `run` find the end of its input, from any thread."""
        ours = socket.socket(fileno=self._connection.fileno())
        try:
            ours.shutdown(socket.SHUT_RD)
        except OSError:
            logger.debug("the server was gone already")
        finally:
            ours.detach()  # the connection closes it

    def _beat(self, engine: VllmEngine, ended: threading.Event) -> None:
        """Say how the engine does, until the end. A process that hangs whole says nothing."""
        while not ended.wait(BEAT_S):
            if not engine.healthy:  # and perhaps nobody asks the parent's way
                self.end()
                return
            self._send(Reply(BEAT, stalled_s=engine.stalled_s))

    def _send(self, reply: Reply) -> None:
        try:
            with self._sending:
                self._connection.send_bytes(msgspec.msgpack.encode(reply))
        except OSError:
            logger.debug("the server is gone")


def _open_door(path: str, engine: VllmEngine, worker: Worker) -> None:
    try:
        Door(path, engine, failed=worker.end)
    except OSError as error:
        raise EngineError(f"vllm: it cannot listen at {path} ({error})") from error


def main() -> int:
    """Serve the socket whose descriptor is the only argument."""
    # Ctrl-C goes to the whole group; the parent decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return Worker(Connection(int(sys.argv[1]))).run()


if __name__ == "__main__":
    sys.exit(main())
