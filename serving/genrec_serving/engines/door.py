"""A socket at which several processes ask one engine.

One thread takes what all of them ask. Replies are written by the engine's thread itself, those of a
step together, as each write costs it some ten microseconds and a turn at Python's lock. It must
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
        #: Guests whose replies are still to be written.
        self._told: deque[_Guest] = deque()
        #: Guests who do not read as fast as they are told.
        self._behind: deque[_Guest] = deque()
        engine.answered = self._write_all
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
            self._write_all()

    def _write_all(self) -> None:
        """Write what guests were told."""
        while self._told:
            try:
                guest = self._told.popleft()
            except IndexError:  # the other thread was faster
                return
            guest.write()

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            logger.debug("somebody came and went: %s", error)
            return
        connection.setblocking(False)
        guest = _Guest(connection, self._engine, self._told.append, self._fell_behind)
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
        told: Callable[[_Guest], None],
        fell_behind: Callable[[_Guest], None],
    ) -> None:
        self.connection = connection
        self.closed = False
        self._told = told
        self._fell_behind = fell_behind
        self._frames = FrameReader()
        self._asker = Asker(engine, self._tell)
        self._sending = threading.Lock()
        self._unsent = bytearray()
        #: Whether the socket is full, and the door's thread waits until it is not.
        self._is_behind = False

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
        """Write what waits, as far as it goes; whether nothing waits any more.

        Raises:
            OSError: the guest left.
        """
        with self._sending:
            self._write()
            self._is_behind = bool(self._unsent)
            return not self._is_behind

    def write(self) -> None:
        """Write what the guest was told, but for what does not fit."""
        with self._sending:
            if self.closed or self._is_behind:
                return
            try:
                self._write()
            except OSError:
                return  # the reader finds it too
            if self._unsent:
                logger.debug("a guest does not read")
                self._is_behind = True
                self._fell_behind(self)

    def close(self) -> None:
        """Forget what the guest asked."""
        with self._sending:
            self.closed = True
            self.connection.close()
        self._asker.leave()

    def _tell(self, reply: Reply) -> None:
        """Take a reply, which is written with others."""
        data = frame(msgspec.msgpack.encode(reply))
        with self._sending:
            if self.closed:
                return
            if not self._unsent:
                self._told(self)
            self._unsent += data

    def _write(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self.connection.send(self._unsent)]
        except BlockingIOError:
            return
