"""A server that is given its connections, and asks engines that another process watches over."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import socket
from functools import partial

import msgspec
import uvloop

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, GenrecError, UserError
from genrec_model.settings import settings
from genrec_serving.engines.connected import ConnectedEngines
from genrec_serving.fronts.control import (
    BEAT_S,
    All,
    Beat,
    Begin,
    Channel,
    Collect,
    Counted,
    Drain,
    Engines,
    Failed,
    Gather,
    Stop,
    ToFront,
)
from genrec_serving.kserve_server import Address, HttpServer, RecommenderServer
from genrec_serving.predictor import RecommenderModel
from genrec_serving.server_options import ServerOptions
from genrec_serving.server_parts import admission_limits, build_app, build_recommender, security
from genrec_serving.strategies.strategy import Strategies, connected_strategies
from genrec_serving.surfaces.admission import Admission
from genrec_serving.surfaces.gathering import own_numbers
from genrec_serving.telemetry.metrics import RequestMetrics
from genrec_serving.telemetry.numbers import Numbers
from genrec_serving.users.connected_store import ConnectedStore
from genrec_serving.users.open_store import events_kept, store_name

logger = logging.getLogger(__name__)

#: For the numbers of all processes.
_GATHER_S = 5.0
_MOST_HANDED = 64


class FrontServer:
    """One of several processes that take requests.

    Args:
        options: of the server.
        begin: where the engines and the store of users are.

    Raises:
        GenrecError: the options make no sense.
    """

    def __init__(self, options: ServerOptions, begin: Begin) -> None:
        self._options = options
        self._begin = begin
        self._channel = Channel(ToFront, self._take, self._alone)
        self._stop = asyncio.Event()
        self._serving: tuple[RecommenderServer, RecommenderModel] | None = None
        self._adopted = 0
        self._ids = itertools.count()
        self._gathering: dict[int, asyncio.Future[list[bytes]]] = {}
        self._arriving: set[asyncio.Task[None]] = set()

    def run(self, messages: socket.socket, *, handed: socket.socket) -> int:
        """Serve until told to stop, or until nobody is there who could; the exit status.

        Args:
            messages: to the supervisor.
            handed: where connections come.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run(messages, handed))

    async def _run(self, messages: socket.socket, handed: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        self._engines = ConnectedEngines(self._begin.doors)
        await loop.create_unix_connection(lambda: self._channel, sock=messages)
        try:
            await self._serve(handed)
        except GenrecError as error:
            self._channel.send(Failed(str(error), isinstance(error, UserError)))
            return 1
        finally:
            self._engines.close()
            self._channel.close()
            await asyncio.sleep(0)  # what was sent goes out
        return 0

    async def _serve(self, handed: socket.socket) -> None:
        options = self._options
        loop = asyncio.get_running_loop()
        model: RecommenderModel = RecommenderModel(
            options.model_name,
            load=partial(
                build_recommender,
                options,
                partial(self._strategies, loop),
                partial(self._store, loop) if self._begin.store else None,
            ),
            metrics=RequestMetrics(),
            admission=Admission(admission_limits(options)),
        )
        address = Address(
            host=options.host,
            http_port=options.http_port,
            grpc_port=None if self._begin.number else options.grpc_port,
            accepts=False,
        )
        server = RecommenderServer(
            build_app(model.front, self._gather), address=address, security=security(options)
        )
        self._serving = server, model
        beating = asyncio.create_task(self._beat(handed, server, model))
        try:
            await server.serve(model, self._stop)
        finally:
            beating.cancel()

    def _strategies(
        self, loop: asyncio.AbstractEventLoop, artifact: Artifact, version: str
    ) -> Strategies:
        """Called in a thread: it may wait until the engines run."""
        del version  # the engines know it
        asyncio.run_coroutine_threadsafe(self._engines.wait_until_healthy(), loop).result()
        return connected_strategies(
            artifact, self._engines, default=self._options.strategy, threads=self._options.threads
        )

    def _store(self, loop: asyncio.AbstractEventLoop, artifact: Artifact) -> ConnectedStore:
        """Called in a thread: it may wait until the store can be asked."""
        options, path = self._options, self._begin.store
        assert path is not None

        async def reach() -> ConnectedStore:
            store = ConnectedStore(
                path,
                name=store_name(options.user_store or settings().user_store),
                events_per_user=events_kept(artifact.config.max_history, options.events_per_user),
            )
            await store.wait_until_up()
            return store

        return asyncio.run_coroutine_threadsafe(reach(), loop).result()

    async def _beat(
        self, handed: socket.socket, server: RecommenderServer, model: RecommenderModel
    ) -> None:
        """Take connections once they can be served, and say so again and again."""
        http = server.http
        while not http.started:
            await asyncio.sleep(BEAT_S / 10)
        handed.setblocking(False)
        asyncio.get_running_loop().add_reader(handed, self._adopt, handed, http)
        frozen = False
        while True:
            if model.ready and not frozen:
                # All that there is now stays: it need not be looked through again and again.
                gc.collect()
                gc.freeze()
                frozen = True
            self._channel.send(Beat(http.connections, self._adopted, bool(model.ready)))
            await asyncio.sleep(BEAT_S)

    def _adopt(self, handed: socket.socket, http: HttpServer) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(handed, _MOST_HANDED, _MOST_HANDED)
            except BlockingIOError:
                return
            if not data:  # the supervisor is gone
                asyncio.get_running_loop().remove_reader(handed)
                return
            for descriptor in descriptors:
                self._adopted += 1
                connection = socket.socket(fileno=descriptor)
                arrival = asyncio.create_task(_arrive(connection, http))
                self._arriving.add(arrival)
                arrival.add_done_callback(self._arriving.discard)

    def _take(self, message: ToFront) -> None:
        match message:
            case Engines(state):
                self._engines.tell(state)
            case Collect(number) if self._serving is not None:
                numbers = own_numbers(self._serving[1].front)
                self._channel.send(Counted(number, msgspec.msgpack.encode(numbers)))
            case All(number, parts):
                waiting = self._gathering.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(parts)
            case Drain() if self._serving is not None:
                self._serving[0].drain(self._serving[1])
            case Stop():
                self._stop.set()

    def _alone(self) -> None:
        self._stop.set()

    async def _gather(self) -> list[Numbers]:
        number = next(self._ids)
        waiting: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._gathering[number] = waiting
        self._channel.send(Gather(number))
        try:
            async with asyncio.timeout(_GATHER_S):
                parts = await waiting
        except TimeoutError as error:
            raise EngineError("the numbers of all processes cannot be had now") from error
        finally:
            self._gathering.pop(number, None)
        return [msgspec.msgpack.decode(part, type=Numbers) for part in parts]


async def _arrive(connection: socket.socket, http: HttpServer) -> None:
    connection.setblocking(False)
    try:
        await http.adopt(connection)
    except OSError as error:
        logger.debug("a connection was gone before it was served: %s", error)
        connection.close()
