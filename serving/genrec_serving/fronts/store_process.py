"""A child of `supervisor`, which has the users' events.

``python -m genrec_serving.fronts.store_process FD``, of the socket to the supervisor.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys

import uvloop

from genrec_model.errors import GenrecError, StoreError, UserError
from genrec_model.settings import settings
from genrec_serving.fronts.control import (
    BEAT_S,
    BeginStore,
    Channel,
    Failed,
    StoreUp,
    options_from_dict,
)
from genrec_serving.server_parts import prepare_process
from genrec_serving.users.open_store import open_store
from genrec_serving.users.store import HistoryStore
from genrec_serving.users.store_door import open_door


class StoreServer:
    """Has a store open until the supervisor hangs up."""

    def __init__(self) -> None:
        self._begin: asyncio.Future[BeginStore] = asyncio.get_running_loop().create_future()
        self._left = asyncio.Event()
        self._channel = Channel(BeginStore, self._begin.set_result, self._left.set)

    async def run(self, control: socket.socket) -> int:
        """Serve; the exit status.

        Args:
            control: to the supervisor.
        """
        await asyncio.get_running_loop().create_unix_connection(lambda: self._channel, sock=control)
        begin = await self._begin
        try:
            store = self._open(begin)
            try:
                door = await open_door(begin.path, store)
            except OSError as error:
                raise StoreError(f"user store: it cannot listen ({error})") from error
        except GenrecError as error:
            self._channel.send(Failed(str(error), isinstance(error, UserError)))
            self._channel.close()
            await asyncio.sleep(0)  # what was sent goes out
            return 1
        beating = asyncio.create_task(self._beat())
        await self._left.wait()
        beating.cancel()
        door.close()
        await store.close()
        return 0

    async def _beat(self) -> None:
        while True:
            self._channel.send(StoreUp())
            await asyncio.sleep(BEAT_S)

    def _open(self, begin: BeginStore) -> HistoryStore:
        options = options_from_dict(begin.options)
        prepare_process(options)
        return open_store(
            options.user_store or settings().user_store,
            max_history=begin.max_history,
            events_per_user=options.events_per_user,
            max_users=options.max_users,
            own_process=True,
        )


async def _serve(descriptor: int) -> int:
    return await StoreServer().run(socket.socket(fileno=descriptor))


def main() -> int:
    """Serve until the supervisor is gone; the exit status."""
    # They go to the whole group; the supervisor decides when this one ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(int(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
