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
import struct
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from grpc import aio
from kserve import ModelServer
from kserve.errors import InferenceError, InvalidInput
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer, metrics_handler
from kserve.protocol.rest.v1_endpoints import register_v1_endpoints
from kserve.protocol.rest.v2_endpoints import register_v2_endpoints

from genrec_model.errors import EngineError, RequestError
from genrec_serving.error_responses import StatusInterceptor, add_error_handlers
from genrec_serving.predictor import RecommenderModel
from genrec_serving.request_guard import MAX_BODY_BYTES, RequestGuard

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
        grpc_port: V2 over gRPC.
    """

    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081


class CheckedDataPlane(DataPlane):
    """KServe's data plane, with an honest readiness and with errors that are the client's."""

    async def ready(self) -> bool:
        """Whether all models are ready; KServe says yes from the start."""
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

    def __init__(self, app: FastAPI, *args: Any, host: str, **kwargs: Any) -> None:
        super().__init__(app, *args, **kwargs)
        self._app = app
        self.config.host = host
        self.config.access_log = False

    def create_application(self) -> None:
        """Routes and error handlers, without KServe's timing and OpenAI layers."""
        root = APIRouter(tags=["server"])
        root.add_api_route("/metrics", metrics_handler, methods=["GET"], summary="For Prometheus")
        self._app.include_router(root)
        register_v1_endpoints(self._app, self.dataplane, self.model_repository_extension)
        register_v2_endpoints(self._app, self.dataplane, self.model_repository_extension)
        add_error_handlers(self._app)
        self._app.add_middleware(RequestGuard)


class GrpcServer(GRPCServer):
    """KServe's gRPC server on one address, without a line of log a request."""

    def __init__(self, address: Address, *args: Any, **kwargs: Any) -> None:
        super().__init__(address.grpc_port, *args, kwargs={}, **kwargs)
        self._host = address.host

    async def start(self, max_workers: int) -> None:  # noqa: ARG002  # all methods are coroutines
        """Serve until stopped.

        Raises:
            EngineError: the port is taken.
        """
        self._server = aio.server(
            interceptors=(StatusInterceptor(),),
            options=[
                ("grpc.max_receive_message_length", MAX_BODY_BYTES),
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


class RecommenderServer(ModelServer):
    """Serves one recommender until it is told to stop.

    The server answers as soon as it listens, "not ready" at first, while the model loads.

    Args:
        app: application with the REST API's routes.
        address: where to listen.
        open_repository: whether anybody may load and unload models.
        grace_s: seconds that requests in flight have when the server is stopped.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        address: Address,
        open_repository: bool = False,
        grace_s: int = 20,
    ) -> None:
        super().__init__(
            http_port=address.http_port, grpc_port=address.grpc_port, grace_period=grace_s
        )
        self.dataplane = CheckedDataPlane(self.registered_models)
        if not open_repository:
            self.model_repository_extension = ClosedRepository(self.registered_models)
        self._http = HttpServer(
            app,
            self.dataplane,
            self.model_repository_extension,
            address.http_port,
            grace_period=grace_s,
            host=address.host,
        )
        self._grpc = GrpcServer(
            address, self.dataplane, self.model_repository_extension, grace_period=grace_s
        )

    def run(self, model: RecommenderModel) -> None:
        """Serve until SIGTERM or SIGINT, or until the model cannot be loaded.

        Raises:
            GenrecError: the model cannot be loaded, or a port is taken.
        """
        self.register_model(model)
        asyncio.run(self._run(model))

    async def _run(self, model: RecommenderModel) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        stopped = asyncio.create_task(stop.wait())
        # uvicorn handles the same signals while it serves, so either of the two may end first.
        http = asyncio.create_task(self._http.start())
        grpc = asyncio.create_task(self._grpc.start(1))
        start = asyncio.create_task(model.start_engine())
        try:
            done, _ = await asyncio.wait(
                {stopped, http, grpc, start}, return_when=asyncio.FIRST_COMPLETED
            )
            if done == {start}:
                await start
                logger.info("model %s is ready", model.name)
                await asyncio.wait({stopped, http, grpc}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            logger.info("stopping")
            self._http._server.should_exit = True
            await asyncio.gather(http, self._grpc.stop(), return_exceptions=True)
            stopped.cancel()
            start.cancel()
            await model.close()
        for task in (http, grpc):
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error
