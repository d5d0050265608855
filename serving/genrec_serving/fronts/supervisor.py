"""Several processes that take requests, in front of the same engines.

One Python process cannot read, check and answer as many requests as several engines score. So this
one only accepts connections and hands each to the process that has the fewest; those decode, keep
events, encode and answer, and ask the engines, which are children of this process, through sockets
of their own. Another child has the users' events, unless these are in Redis. Nothing of a request
passes through here.

A process that ends is started again, and nobody else notices. Engines and the users' events are
watched and started again here; meanwhile requests that need them are answered with 503.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import torch
import uvloop

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError, EngineError, StoreError
from genrec_model.settings import settings
from genrec_serving.engines.probe import probe
from genrec_serving.engines.state import EngineState
from genrec_serving.engines.supervised import Backoff, SupervisedEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.engines.vllm_processes import VllmProcesses
from genrec_serving.fronts.child import FrontChild
from genrec_serving.fronts.control import (
    All,
    Begin,
    BeginStore,
    Drain,
    Engines,
    Stop,
    options_to_dict,
)
from genrec_serving.fronts.retired import Retired
from genrec_serving.fronts.store_child import StoreChild
from genrec_serving.server_artifact import resolve
from genrec_serving.server_options import ServerOptions, vllm_options
from genrec_serving.server_parts import admission_limits, security
from genrec_serving.telemetry.numbers import Numbers, collect
from genrec_serving.users.open_store import lives_with_server

logger = logging.getLogger(__name__)

_BACKLOG = 2048
#: That requests in flight have in the processes that stop; see `kserve_server.Stopping`.
_GRACE_S = 20.0
_LOOK_S = 0.1
#: For a process that ends, beyond what its requests have.
_TO_END_S = 5.0
#: A process that says nothing for so long is given no connections.
_QUIET_S = 2.0


def run_supervisor(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        GenrecError: the options make no sense, the model cannot be loaded, or a port is taken.
    """
    check_options(options)
    path, version = resolve(options)
    options = replace(options, artifact=str(path), model_version=version)
    with (
        tempfile.TemporaryDirectory(prefix="genrec-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(Supervisor(options, Path(folder)).run())


def check_options(options: ServerOptions) -> None:
    """Refuse what several processes that take requests cannot do.

    Raises:
        ConfigError: it is one of these.
    """
    count = options.http_processes
    if options.strategy not in {"auto", "vllm"}:
        raise ConfigError(
            f"--http-processes {count} shares vLLM's engines: use --strategy auto or vllm, not "
            f"{options.strategy}"
        )
    if options.engine_processes == 0:
        raise ConfigError(
            f"--http-processes {count} needs engines in processes of their own: use "
            "--engine-processes 1 or more"
        )
    for name, given in (
        ("--second-engine", options.second_engine is not None),
        ("--open-repository", options.open_repository),
    ):
        if given:
            raise ConfigError(f"{name} works with --http-processes 1 only, not {count}")
    admission_limits(options)
    security(options)


class Supervisor:
    """Starts engines and processes that take requests, and keeps them running.

    Args:
        options: checked, with the artifact's folder and version.
        folder: for sockets; only this user may enter it.
    """

    def __init__(self, options: ServerOptions, folder: Path) -> None:
        self._options = options
        self._vllm = vllm_options(options)
        if self._vllm.processes is None:
            self._vllm = replace(self._vllm, processes=1)
        self._doors = [str(folder / f"engine-{n}") for n in range(self._vllm.processes or 1)]
        address = options.user_store or settings().user_store
        self._store_path = str(folder / "user-store") if lives_with_server(address) else None
        self._store: StoreChild | None = None
        self._engine: SupervisedEngine | None = None
        self._state = EngineState()
        self._children: dict[int, FrontChild] = {}
        self._retired = Retired()
        self._stopping = asyncio.Event()
        self._listener: socket.socket | None = None
        self._accepting = False
        self._gathers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            GenrecError: the model cannot be loaded, or a port is taken.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        self._listener = _listen(self._options.host, self._options.http_port)
        ports = self._options.http_port, self._options.grpc_port
        logger.info("listening on %s, ports %d and %d", self._options.host, *ports)
        artifact = Artifact(self._options.artifact)
        tasks = [asyncio.create_task(self._run_engines(artifact))]
        if self._store_path is not None:
            begin = BeginStore(
                options_to_dict(self._options), artifact.config.max_history, self._store_path
            )
            tasks.append(asyncio.create_task(self._keep_store(begin)))
        tasks += [
            asyncio.create_task(self._keep(number))
            for number in range(self._options.http_processes)
        ]
        tasks.append(asyncio.create_task(self._look()))
        tasks.append(asyncio.create_task(self._drain()))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # all but the last one end with an error
        finally:
            logger.info("stopping")
            self._stopping.set()
            self._stop_accepting()
            self._listener.close()
            await self._end_children()
            for task in tasks:
                task.cancel()
            if self._store is not None:
                await self._store.end(_TO_END_S)
            if self._engine is not None:
                await asyncio.to_thread(self._engine.close)

    async def _run_engines(self, artifact: Artifact) -> None:
        """Start the engines, and say how they do."""
        version = self._options.model_version or ""
        start = partial(_start_engines, artifact, version, self._vllm, self._doors)
        engine = await asyncio.to_thread(SupervisedEngine, start, hang_s=self._options.hang_s)
        self._engine = engine
        await probe(engine, now=int(time.time()))
        logger.info("%d engines run", len(self._doors))
        while True:
            self._tell(msgspec.convert(engine.describe(), EngineState))
            await asyncio.sleep(_LOOK_S)

    def _tell(self, state: EngineState) -> None:
        if state == self._state:
            return
        self._state = state
        for child in self._children.values():
            child.send(Engines(state))

    async def _keep(self, number: int) -> None:
        """One process after another, until the server stops."""
        backoff, first, failed = Backoff(), True, 0
        begin = Begin(number, options_to_dict(self._options), self._doors, self._store_path)
        while True:
            if self._stopping.is_set():
                await asyncio.Event().wait()  # for the end of all
            child = FrontChild(begin, self._gather)
            self._children[number] = child
            await child.start()
            child.send(Engines(self._state))
            await child.ended.wait()
            await child.end(_TO_END_S)
            del self._children[number]
            self._retired.add(child.numbers)
            if self._stopping.is_set():
                continue
            if child.failed is not None and first:
                kind = ConfigError if child.failed.by_user else EngineError
                raise kind(child.failed.message)
            first, failed = False, 0 if child.loaded else failed + 1
            if failed >= backoff.tries:
                raise EngineError(f"HTTP process {number} ended {failed} times in a row")
            logger.error("HTTP process %d ended and is started again", number)
            await asyncio.sleep(backoff.delay_s(failed))

    async def _keep_store(self, begin: BeginStore) -> None:
        """One process with the users' events after another; what asks meanwhile gets 503."""
        backoff, first, failed = Backoff(), True, 0
        while True:
            self._store = store = StoreChild(begin)
            await store.start()
            await store.ended.wait()
            await store.end(_TO_END_S)
            if store.failed is not None and first:
                kind = ConfigError if store.failed.by_user else StoreError
                raise kind(store.failed.message)
            first, failed = False, 0 if store.was_up else failed + 1
            if failed >= backoff.tries:
                raise StoreError(f"the user store's process ended {failed} times in a row")
            logger.error("the user store's process ended and is started again")
            await asyncio.sleep(backoff.delay_s(failed))

    async def _look(self) -> None:
        """Accept while somebody takes connections, and end who hangs."""
        while True:
            ups = [child for child in self._children.values() if child.up]
            if ups and not self._accepting and not self._stopping.is_set():
                assert self._listener is not None
                asyncio.get_running_loop().add_reader(self._listener, self._accept)
                self._accepting = True
            elif not ups:
                self._stop_accepting()
            self._end_hung()
            await asyncio.sleep(_LOOK_S)

    def _end_hung(self) -> None:
        """End processes that say nothing any more, so that they are started again."""
        for child in (*self._children.values(), self._store):
            if child is not None and 0 < self._options.hang_s <= child.silent_s:
                logger.error("%s hangs, and is ended", child.name)
                child.kill()

    def _accept(self) -> None:
        """Hand a new connection to who has the fewest."""
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # who came is gone, or there are too many
            logger.debug("no connection: %s", error)
            return
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ups = [child for child in self._children.values() if child.up]
            for child in sorted(ups, key=_preference):
                if child.hand(connection):
                    return

    def _stop_accepting(self) -> None:
        if self._accepting and self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
        self._accepting = False

    def _gather(self, child: FrontChild, number: int) -> None:
        task = asyncio.create_task(self._gather_for(child, number))
        self._gathers.add(task)
        task.add_done_callback(self._gathers.discard)

    async def _gather_for(self, asker: FrontChild, number: int) -> None:
        children = list(self._children.values())
        found = await asyncio.gather(*(child.collect() for child in children))
        own = Numbers(families=collect())
        parts = [part for part in (*found, own, self._retired.numbers) if part is not None]
        asker.send(All(number, [msgspec.msgpack.encode(part) for part in parts]))

    async def _drain(self) -> None:
        """Wait for the end, and be found unready before requests are refused."""
        await self._stopping.wait()
        for child in self._children.values():
            child.send(Drain())
        if self._options.drain_s:
            logger.info("not ready any more; refusing requests in %g s", self._options.drain_s)
            await asyncio.sleep(self._options.drain_s)

    async def _end_children(self) -> None:
        children = list(self._children.values())
        for child in children:
            child.send(Stop())
        await asyncio.gather(*(child.end(_GRACE_S + _TO_END_S) for child in children))


def _start_engines(
    artifact: Artifact, version: str, options: VllmOptions, doors: list[str]
) -> VllmProcesses:
    options = options.for_device(cuda=torch.cuda.is_available())
    return VllmProcesses(artifact, version=version, options=options, doors=doors)


def _preference(child: FrontChild) -> tuple[bool, bool, int]:
    """Less for the process that should have the next connection."""
    return child.silent_s >= _QUIET_S, not child.loaded, child.connections


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise EngineError(f"HTTP cannot listen on {host}:{port} ({error})") from error
    listener.setblocking(False)
    return listener
