"""A socket at which several processes ask one engine.

One thread takes what all of them ask. Replies are written by the engine's thread itself, which must
not wait for a process that does not read: what does not fit into the socket is left to the first
thread.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from genrec_model.errors import EngineError
from genrec_serving.engines.asker import Asker
from genrec_serving.engines.vllm_engine import VllmEngine
from genrec_serving.engines.wire import Ask, Reply
from genrec_serving.sockets.frames import FrameReader, frame

logger = logging.getLogger(__name__)

_MOST_READ = 1 << 18
_BACKLOG = 64


class Door:
    """Listens until the process ends.

    Args:
        path: of the socket; one that a dead process left is replaced. Who may ask is decided by
            the permissions of its folder.
        engine: that is asked.
        failed: called where the engine failed.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(self, path: str, engine: VllmEngine, *, failed: Callable[[], None]) -> None:
        self._engine = engine
        self._failed = failed
        Path(path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(_BACKLOG)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        #: Guests for whom replies wait.
        self._behind: deque[_Guest] = deque()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        threading.Thread(target=self._run, name="engine-door", daemon=True).start()

    def _run(self) -> None:
        decoder = msgspec.msgpack.Decoder(Ask)
        while True:
            for key, events in self._selector.select():
                if key.fileobj is self._listener:
                    self._admit()
                elif key.fileobj is self._woken:
                    self._look_behind()
                else:
                    self._serve(key.data, events, decoder)

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            logger.debug("somebody came and went: %s", error)
            return
        connection.setblocking(False)
        guest = _Guest(connection, self._engine, self._fell_behind)
        self._selector.register(connection, selectors.EVENT_READ, guest)

    def _serve(self, guest: _Guest, events: int, decoder: msgspec.msgpack.Decoder[Ask]) -> None:
        try:
            if events & selectors.EVENT_WRITE and guest.catch_up():
                self._selector.modify(guest.connection, selectors.EVENT_READ, guest)
            if events & selectors.EVENT_READ:
                guest.read(decoder)
        except EngineError:
            self._failed()
        except OSError as error:
            logger.debug("somebody left: %s", error)
            self._selector.unregister(guest.connection)
            guest.close()

    def _fell_behind(self, guest: _Guest) -> None:
        self._behind.append(guest)
        try:
            self._wake.send(b"b")
        except BlockingIOError:
            logger.debug("the thread was woken already")

    def _look_behind(self) -> None:
        self._woken.recv(_BACKLOG)
        both = selectors.EVENT_READ | selectors.EVENT_WRITE
        while self._behind:
            guest = self._behind.popleft()
            if not guest.closed:
                self._selector.modify(guest.connection, both, guest)


class _Guest:
    """A process that asks."""

    def __init__(
        self,
        connection: socket.socket,
        engine: VllmEngine,
        fell_behind: Callable[[_Guest], None],
    ) -> None:
        self.connection = connection
        self.closed = False
        self._fell_behind = fell_behind
        self._frames = FrameReader()
        self._asker = Asker(engine, self._send)
        self._sending = threading.Lock()
        self._unsent = bytearray()

    def read(self, decoder: msgspec.msgpack.Decoder[Ask]) -> None:
        """Take what came.

        Raises:
            EngineError: the engine failed.
            OSError: the guest left.
        """
        try:
            data = self.connection.recv(_MOST_READ)
        except BlockingIOError:
            return
        if not data:
            raise ConnectionResetError("end of the stream")
        for message in self._frames.feed(data):
            self._asker.take(decoder.decode(message))

    def catch_up(self) -> bool:
        """Send what waits, as far as it goes; whether nothing waits any more.

        Raises:
            OSError: the guest left.
        """
        with self._sending:
            try:
                del self._unsent[: self.connection.send(self._unsent)]
            except BlockingIOError:
                return False
            return not self._unsent

    def close(self) -> None:
        """Forget what the guest asked."""
        with self._sending:
            self.closed = True
            self.connection.close()
        self._asker.leave()

    def _send(self, reply: Reply) -> None:
        data = frame(msgspec.msgpack.encode(reply))
        with self._sending:
            if self.closed:
                return
            if not self._unsent:
                try:
                    data = data[self.connection.send(data) :]
                except BlockingIOError:
                    logger.debug("a guest does not read")
                except OSError:
                    return  # the reader finds it too
                if not data:
                    return
                self._fell_behind(self)
            self._unsent += data
