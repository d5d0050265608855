"""One process that takes requests, as its supervisor sees it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import msgspec

from genrec_serving.fronts.control import (
    Beat,
    Begin,
    Channel,
    Collect,
    Counted,
    Failed,
    FromFront,
    Gather,
    ToFront,
)
from genrec_serving.telemetry.numbers import Numbers

logger = logging.getLogger(__name__)

#: A process that does not say in time what it counts is shown as it was.
_COLLECT_S = 1.5


class FrontChild:
    """A process that takes requests.

    Args:
        begin: what it is told first.
        gather: called when it wants to know what all count, with the id of its question.
    """

    def __init__(self, begin: Begin, gather: Callable[[FrontChild, int], None]) -> None:
        self._begin = begin
        self.number = begin.number
        self._gather = gather
        self._channel = Channel(FromFront, self._take, self._lost)
        self._process: subprocess.Popen[bytes] | None = None
        self._hands: socket.socket | None = None
        self._handed = 0
        self._beat: Beat | None = None
        self._beat_at = 0.0
        self._ids = itertools.count()
        self._collecting: dict[int, asyncio.Future[None]] = {}
        #: What it counted when it was last asked.
        self.numbers: Numbers | None = None
        #: Why it cannot start, where it said so.
        self.failed: Failed | None = None
        self.ended = asyncio.Event()

    async def start(self) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair()
        self._hands, handed = socket.socketpair()
        self._hands.setblocking(False)
        # Not a fork: this process has threads.
        command = [sys.executable, "-m", "genrec_serving.fronts.front_process"]
        self._process = subprocess.Popen(
            [*command, str(theirs.fileno()), str(handed.fileno())],
            pass_fds=[theirs.fileno(), handed.fileno()],
        )
        theirs.close()
        handed.close()
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=ours)
        self.send(self._begin)

    @property
    def name(self) -> str:
        """As the log has it."""
        return f"HTTP process {self.number}"

    @property
    def pid(self) -> int:
        """Id of the process, once it was started."""
        assert self._process is not None
        return self._process.pid

    @property
    def up(self) -> bool:
        """Whether it serves connections."""
        return self._beat is not None and not self.ended.is_set()

    @property
    def loaded(self) -> bool:
        """Whether it has, or had, its model."""
        return self._beat is not None and self._beat.loaded

    @property
    def silent_s(self) -> float:
        """Seconds since it last said that it lives; 0 before it is up."""
        return time.monotonic() - self._beat_at if self.up else 0.0

    @property
    def connections(self) -> int:
        """Connections that it has, or will have in a moment."""
        if self._beat is None:
            return 0
        return self._beat.open + self._handed - self._beat.adopted

    def send(self, message: ToFront) -> None:
        """Say something; it need not arrive."""
        self._channel.send(message)

    def hand(self, connection: socket.socket) -> bool:
        """Give it a connection; False where it takes none now."""
        assert self._hands is not None
        try:
            socket.send_fds(self._hands, [b"c"], [connection.fileno()])
        except OSError as error:  # also where it does not read
            logger.debug("process %d takes no connection: %s", self._begin.number, error)
            return False
        self._handed += 1
        return True

    async def collect(self) -> Numbers | None:
        """What it counts; what it counted before where it does not say so in time."""
        if not self.up:
            return self.numbers
        number = next(self._ids)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._collecting[number] = answered
        self.send(Collect(number))
        try:
            async with asyncio.timeout(_COLLECT_S):
                await answered
        except TimeoutError:
            logger.debug("process %d does not say what it counts", self._begin.number)
        finally:
            self._collecting.pop(number, None)
        return self.numbers

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    async def end(self, seconds: float) -> None:
        """Wait for its end, and end it where that takes longer."""
        assert self._process is not None
        try:
            await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            logger.warning("process %d did not end in time and is killed", self._begin.number)
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        self._channel.close()
        if self._hands is not None:
            self._hands.close()

    def _take(self, message: FromFront) -> None:
        match message:
            case Beat():
                self._beat, self._beat_at = message, time.monotonic()
            case Counted(number, numbers):
                self.numbers = msgspec.msgpack.decode(numbers, type=Numbers)
                answered = self._collecting.get(number)
                if answered is not None and not answered.done():
                    answered.set_result(None)
            case Gather(number):
                self._gather(self, number)
            case Failed():
                self.failed = message

    def _lost(self) -> None:
        self.ended.set()
        for answered in self._collecting.values():
            if not answered.done():
                answered.set_result(None)
