"""KServe's model server, bound to one address and closed where it is open by default.

KServe 0.21 listens on all interfaces, offers loading and unloading of models to everybody, and
brings vLLM's OpenAI layer in where vLLM is installed. All three are decided in methods that these
subclasses override; nothing of KServe is patched.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import signal
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from grpc import aio
from kserve import ModelServer
from kserve.errors import InferenceError, InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from genrec_model.errors import EngineError, RequestError
from genrec_serving.predictor import RecommenderModel
from genrec_serving.surfaces.error_responses import (
    ReadableInterceptor,
    StatusInterceptor,
    add_error_handlers,
)
from genrec_serving.surfaces.request_guard import HttpLimits, RequestGuard
from genrec_serving.surfaces.tokens import TokenInterceptor, Tokens

logger = logging.getLogger(__name__)

#: What KServe's decoding raises for bodies that make no sense.
_UNREADABLE = (
    AttributeError,
    InferenceError,
    KeyError,
    OverflowError,
    TypeError,
    ValueError,
    struct.error,
)


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where the server listens.

    Args:
        host: address of an interface; ``0.0.0.0`` for all of them, in a container.
        http_port: V1, V2 and the REST API.
        grpc_port: V2 over gRPC; None where another process has it.
        accepts: whether this process accepts connections, or is given them (see `adopt`).
    """

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int | None = 8081
    accepts: bool = True


class CheckedDataPlane(DataPlane):
    """KServe's data plane, with an honest readiness and with errors that are the client's."""

    draining = False

    async def ready(self) -> bool:
        """Whether all models are ready; KServe says yes from the start."""
        if self.draining:
            return False
        models = list(self.model_registry.get_models())
        states = [await self.model_registry.is_model_ready(name) for name in models]
        return bool(states) and all(states)

    def decode(self, body: Any, headers: Any, *args: Any, **kwargs: Any) -> Any:
        """As in KServe; a body that makes no sense is a 400, whatever it is that fails."""
        try:
            return super().decode(body, headers, *args, **kwargs)
        except InvalidInput:
            raise
        except _UNREADABLE as error:
            message = f"{type(error).__name__}: {error}"
            raise RequestError(message, field="body", status=400) from error


class ClosedRepository(ModelRepositoryExtension):
    """Refuses to load and unload models: a request must not stop the server for all others."""

    async def load(self, model_name: str) -> None:  # noqa: ARG002
        """Always refused."""
        raise RequestError("loading and unloading are closed", field="repository", status=403)

    async def unload(self, model_name: str) -> None:
        """Always refused."""
        await self.load(model_name)


class HttpServer(RESTServer):
    """KServe's REST server on one address, with an application of its own."""

    def __init__(
        self, app: FastAPI, *args: Any, address: Address, guard: Mapping[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(app, *args, address.http_port, **kwargs)
        self._app = app
        self._guard = guard
        self._accepts = address.accepts
        self._server = _Uvicorn(self.config)
        self.config.host = address.host
        self.config.access_log = False

    @property
    def started(self) -> bool:
        """Whether connections are served."""
        return self._server.started

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Serve until stopped."""
        self.create_application()
        await self._server.serve(sockets=None if self._accepts else [])

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process accepted; call it when `started`."""
        await self._server.adopt(connection)

    def stop(self) -> None:
        """Take no more connections, and end when those that are open are answered."""
        self._server.should_exit = True

    def create_application(self) -> None:
        """Routes and error handlers, without KServe's timing and OpenAI layers."""
        register_v1_endpoints(self._app, self.dataplane, self.model_repository_extension)
        register_v2_endpoints(self._app, self.dataplane, self.model_repository_extension)
        add_error_handlers(self._app)
        # The last one is the first that sees a request.
        self._app.add_middleware(RequestGuard, **self._guard)


class _Uvicorn(uvicorn.Server):
    """Leaves the signals alone: uvicorn stops listening before anybody knows that it will."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `RecommenderServer` does it."""
        yield

    async def adopt(self, connection: socket.socket) -> None:
        """As `startup` does for connections that are accepted here."""

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )
            return made

        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection)


class GrpcServer(GRPCServer):
    """KServe's gRPC server on one address, without a line of log a request."""

    def __init__(
        self,
        host: str,
        port: int,
        *args: Any,
        max_bytes: int,
        tokens: Tokens | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(port, *args, kwargs={}, **kwargs)
        self._host = host
        self._max_bytes = max_bytes
        self._interceptors = [] if tokens is None else [TokenInterceptor(tokens)]

    async def start(self, max_workers: int) -> None:  # noqa: ARG002  # all methods are coroutines
        """Serve until stopped.

        Raises:
            EngineError: the port is taken.
        """
        self._server = aio.server(
            interceptors=(*self._interceptors, ReadableInterceptor(), StatusInterceptor()),
            options=[
                ("grpc.max_receive_message_length", self._max_bytes),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error
            ],
        )
        servicer = InferenceServicer(self._data_plane, self._model_repository_extension)
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        host = f"[{self._host}]" if ":" in self._host else self._host
        try:
            self._server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise EngineError(f"gRPC cannot listen on {host}:{self._port}") from error
        await self._server.start()
        await self._server.wait_for_termination()


@dataclass(frozen=True, kw_only=True)
class Security:
    """Who may ask, and how much.

    Args:
        limits: of HTTP requests; the size is gRPC's too.
        tokens: that a request may show; None where anybody may ask.
        open_repository: whether anybody may load and unload models.
        access_log: whether every HTTP request leaves a line.
    """

    limits: HttpLimits = field(default_factory=HttpLimits)
    tokens: Tokens | None = None
    open_repository: bool = False
    access_log: bool = False


@dataclass(frozen=True, kw_only=True)
class Stopping:
    """How a server ends that is told to.

    Args:
        drain_s: seconds in which it says "not ready" and still answers, so that those who send
            requests can learn to send them elsewhere.
        grace_s: seconds that requests in flight have after that.
    """

    drain_s: float = 0.0
    grace_s: int = 20


class RecommenderServer(ModelServer):
    """Serves one recommender until it is told to stop.

    The server answers as soon as it listens, "not ready" at first, while the model loads.

    Args:
        app: application with the REST API's routes.
        address: where to listen.
        security: who may ask, and how much.
        stopping: how it ends.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        address: Address,
        security: Security | None = None,
        stopping: Stopping | None = None,
    ) -> None:
        security = security or Security()
        self._stopping = stopping or Stopping()
        grace_s = self._stopping.grace_s
        super().__init__(
            http_port=address.http_port, grpc_port=address.grpc_port or 0, grace_period=grace_s
        )
        self.dataplane = CheckedDataPlane(self.registered_models)
        if not security.open_repository:
            self.model_repository_extension = ClosedRepository(self.registered_models)
        self.http = HttpServer(
            app,
            self.dataplane,
            self.model_repository_extension,
            address=address,
            grace_period=grace_s,
            guard={
                "limits": security.limits,
                "tokens": security.tokens,
                "access_log": security.access_log,
            },
        )
        self._grpc: GrpcServer | None = None
        if address.grpc_port is not None:
            self._grpc = GrpcServer(
                address.host,
                address.grpc_port,
                self.dataplane,
                self.model_repository_extension,
                max_bytes=security.limits.body_bytes,
                tokens=security.tokens,
                grace_period=grace_s,
            )

    def run(self, model: RecommenderModel) -> None:
        """Serve until SIGTERM or SIGINT, and finish what is in flight.

        Raises:
            GenrecError: the model cannot be loaded, or a port is taken.
        """
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run(model))

    async def _run(self, model: RecommenderModel) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await self.serve(model, stop)

    async def serve(self, model: RecommenderModel, stop: asyncio.Event) -> None:
        """Serve until told to stop, and finish what is in flight.

        Raises:
            GenrecError: the model cannot be loaded, or a port is taken.
        """
        self.register_model(model)
        stopped = asyncio.create_task(stop.wait())
        start = asyncio.create_task(model.start_engine())
        servers = {asyncio.create_task(self.http.start())}
        if self._grpc is not None:
            servers.add(asyncio.create_task(self._grpc.start(1)))
        try:
            done, _ = await asyncio.wait(
                {stopped, start, *servers}, return_when=asyncio.FIRST_COMPLETED
            )
            if done == {start}:
                await start
                logger.info("model %s is ready", model.name)
                await asyncio.wait({stopped, *servers}, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                await self._drain(model)
        finally:
            logger.info("stopping")
            self.http.stop()
            ends = [] if self._grpc is None else [self._grpc.stop()]
            await asyncio.gather(*servers, *ends, return_exceptions=True)
            stopped.cancel()
            start.cancel()
            await model.close()
        for task in servers:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    def drain(self, model: RecommenderModel) -> None:
        """Be found unready from now on."""
        self.dataplane.draining = model.front.draining = True

    async def _drain(self, model: RecommenderModel) -> None:
        """Be found unready before requests are refused."""
        self.drain(model)
        if self._stopping.drain_s:
            logger.info("not ready any more; refusing requests in %g s", self._stopping.drain_s)
            await asyncio.sleep(self._stopping.drain_s)
