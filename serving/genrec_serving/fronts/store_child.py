"""The process that has the users' events, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time

from genrec_serving.fronts.control import BeginStore, Channel, Failed, FromStore, StoreUp

logger = logging.getLogger(__name__)


class StoreChild:
    """A process that has the users' events.

    Args:
        begin: what it is told first.
    """

    name = "the user store's process"

    def __init__(self, begin: BeginStore) -> None:
        self._begin = begin
        self._channel = Channel(FromStore, self._take, self._lost)
        self._process: subprocess.Popen[bytes] | None = None
        self._beat_at: float | None = None
        #: Why it cannot start, where it said so.
        self.failed: Failed | None = None
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair()
        # Not a fork: this process has threads.
        command = [sys.executable, "-m", "genrec_serving.fronts.store_process"]
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)
        self._channel.send(self._begin)

    @property
    def was_up(self) -> bool:
        """Whether it could be asked, at some time."""
        return self._beat_at is not None

    @property
    def silent_s(self) -> float:
        """Seconds since it last said that it can be asked; 0 before, and after its end."""
        if self._beat_at is None or self.ended.is_set():
            return 0.0
        return time.monotonic() - self._beat_at

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    async def end(self, seconds: float) -> None:
        """Let it write what it was given, and end it where that takes longer."""
        assert self._process is not None
        self._channel.close()
        try:
            await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            logger.warning("the user store did not end in time and is killed")
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _take(self, message: FromStore) -> None:
        match message:
            case StoreUp():
                self._beat_at = time.monotonic()
            case Failed():
                self.failed = message

    def _lost(self) -> None:
        self.ended.set()
