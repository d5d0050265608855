"""The model server: ``python -m genrec_serving.server --artifact DIR|models:/name@alias``.

Heavy libraries are imported after the options are read and the environment is prepared, as some
of them read it when they are imported.
"""

from __future__ import annotations

import hashlib
import logging
import logging.config
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genrec_model.errors import GenrecError, UserError
from genrec_serving.telemetry.logs import LogFormat, logging_config

if TYPE_CHECKING:
    from fastapi import FastAPI

    from genrec_serving.engines.vllm_options import VllmOptions
    from genrec_serving.predictor import RecommenderModel
    from genrec_serving.recommender import Recommender
    from genrec_serving.surfaces.front import Front

# Not `__name__`, which is `__main__` where this is the program.
logger = logging.getLogger("genrec_serving.server")

DType = Literal["float32", "bfloat16", "float16"]
ModelRunner = Literal["v1", "v2"]

REGISTRY_SCHEME = "models:/"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """All that the server is told.

    Args:
        artifact: folder of an artifact, or ``models:/name@alias`` or ``models:/name/version``.
        model_name: name in the URLs.
        model_version: version that answers carry; the registry's, or the start of the weights'
            SHA-256, where None.
        host: address to listen on; without a token anybody may ask, so the default is this machine.
        http_port: V1, V2 and the REST API.
        grpc_port: V2 over gRPC.
        histories: event table whose users requests may name.
        user_store: where appended events are kept: ``memory``, ``sqlite:PATH`` or a Redis URL;
            the setting of that name where None.
        events_per_user: most events that are kept of a user; enough for the model where None.
        max_users: most users that the store ``memory`` keeps.
        kv_cache_mb: memory for cached histories, in MiB.
        strategy: engine of requests that name none.
        second_engine: see `start_strategies`.
        threads: CPU threads of an engine.
        dtype, page_rows, host_cache_mb, engine_requests, step_rows, engine_processes, model_runner,
            fp8_pages, item_cache: see `VllmOptions`.
        cache_budget_mb, page_order, cache_state: see `VllmOptions`; the last is a folder with one
            for each model name.
        downloads: where artifacts of the registry are put; under the project's home where None.
        open_repository: whether anybody may load and unload models.
        hang_s: see `SupervisedEngine`.
        max_running, max_waiting, max_wait_s, target_s, deadline_s: see `AdmissionLimits`.
        max_body_mb: of a request, MiB.
        token_file: see `Tokens`; the setting of that name where None, and no token where that is
            not set either.
        drain_s: see `Stopping`.
        log_format: ``text`` or ``json``.
        access_log: whether every HTTP request leaves a line.
        otlp_endpoint: where traces are sent; none are made where None.
    """

    artifact: str
    model_name: str = "genrec"
    model_version: str | None = None
    host: str = "127.0.0.1"
    http_port: int = 8080
    grpc_port: int = 8081
    histories: Path | None = None
    user_store: str | None = None
    events_per_user: int | None = None
    max_users: int = 100_000
    kv_cache_mb: int = 128
    strategy: str = "auto"
    second_engine: str | None = None
    threads: int = 1
    dtype: DType | None = None
    page_rows: int | None = None
    host_cache_mb: int = 0
    engine_requests: int = 32
    step_rows: int = 4096
    item_cache: str = "auto"
    cache_state: Path | None = None
    cache_budget_mb: int | None = None
    page_order: str = "lru"
    engine_processes: int | None = None
    fp8_pages: bool = False
    model_runner: ModelRunner = "v1"
    hang_s: float = 30.0
    downloads: Path | None = None
    open_repository: bool = False
    max_running: int = 64
    max_waiting: int = 512
    max_wait_s: float = 1.0
    target_s: float = 0.5
    deadline_s: float = 10.0
    max_body_mb: int = 32
    token_file: Path | None = None
    drain_s: float = 0.0
    log_format: LogFormat = "text"
    access_log: bool = False
    otlp_endpoint: str | None = None


def prepare_process(options: ServerOptions) -> None:
    """Set up logging, and what numerical libraries read from the environment at their import."""
    # More OpenMP threads than these would spin while the engine waits for requests.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # Deprecations inside of libraries are nothing that an operator could act on.
    warnings.simplefilter("ignore")
    logging.config.dictConfig(logging_config(options.log_format))


def resolve(options: ServerOptions) -> tuple[Path, str]:
    """Folder and version of the artifact; one from the registry is downloaded.

    Raises:
        RegistryError: the registry lacks it.
        ArtifactError: it is no artifact.
    """
    from genrec_model.artifact import Artifact

    if options.artifact.startswith(REGISTRY_SCHEME):
        from genrec_model.registry.models import download_artifact
        from genrec_model.settings import settings

        downloads = options.downloads or settings().home / "models"
        model = download_artifact(options.artifact, downloads)
        return model.path, options.model_version or model.version
    path = Artifact(options.artifact).path
    return path, options.model_version or weights_version(path)


def weights_version(artifact: Path) -> str:
    """Version of an artifact that no registry knows: the start of its weights' SHA-256.

    Raises:
        ArtifactError: it has no weights.
    """
    from genrec_model.errors import ArtifactError

    digest = hashlib.sha256()
    try:
        with (artifact / "model.safetensors").open("rb") as weights:
            while block := weights.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ArtifactError(f"{artifact}/model.safetensors: cannot be read ({error})") from error
    return digest.hexdigest()[:12]


def vllm_options(options: ServerOptions) -> VllmOptions:
    """What the server is told of vLLM."""
    from genrec_serving.engines.vllm_options import VllmOptions

    state = options.cache_state
    return VllmOptions(
        kv_cache_mb=options.kv_cache_mb,
        page_rows=options.page_rows,
        host_cache_mb=options.host_cache_mb,
        max_requests=options.engine_requests,
        max_step_rows=options.step_rows,
        threads=options.threads,
        dtype=options.dtype,
        processes=options.engine_processes,
        fp8_pages=options.fp8_pages,
        model_runner=options.model_runner,
        item_cache=options.item_cache,
        cache_state=None if state is None else str(state / options.model_name),
        cache_budget_mb=options.cache_budget_mb,
        page_order=options.page_order,
    )


def load_recommender(options: ServerOptions) -> Recommender:
    """The recommender with its engine started. Takes seconds; blocks.

    Raises:
        GenrecError: something that it needs is missing or broken.
    """
    from genrec_model.artifact import Artifact
    from genrec_model.settings import settings
    from genrec_serving.histories import ParquetHistories
    from genrec_serving.recommender import Recommender
    from genrec_serving.strategies.strategy import start_strategies
    from genrec_serving.users.histories import UserHistories
    from genrec_serving.users.open_store import open_store

    path, version = resolve(options)
    artifact = Artifact(path)
    base = None
    if options.histories is not None:
        base = ParquetHistories(options.histories, artifact.vocabulary)
    store = open_store(
        options.user_store or settings().user_store,
        max_history=artifact.config.max_history,
        events_per_user=options.events_per_user,
        max_users=options.max_users,
    )
    strategies = start_strategies(
        artifact,
        version=version,
        default=options.strategy,
        options=vllm_options(options),
        second=options.second_engine,
        hang_s=options.hang_s,
    )
    return Recommender(
        artifact=artifact,
        strategies=strategies,
        name=options.model_name,
        version=version,
        users=UserHistories(artifact.vocabulary, store=store, base=base),
    )


def build_app(front: Front) -> FastAPI:
    """The web application with the REST API; KServe adds its routes when the server starts."""
    from fastapi import FastAPI

    from genrec_serving.surfaces.api import RecommendApi
    from genrec_serving.surfaces.hot_routes import HotRoutes
    from genrec_serving.surfaces.metrics_route import metrics_router
    from genrec_serving.surfaces.rest import rest_router
    from genrec_serving.surfaces.rest_users import users_router

    app = FastAPI(
        title="genrec",
        summary="Recommendations of an HSTU model",
        docs_url="/docs",
        redoc_url=None,
    )
    app.include_router(rest_router(front))
    app.include_router(users_router(front.recommender))
    app.include_router(metrics_router(front))
    app.add_middleware(HotRoutes, api=RecommendApi(front), recommender=front.recommender)
    return app


def run_server(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        GenrecError: the model cannot be loaded.
    """
    from genrec_model.settings import settings
    from genrec_serving.kserve_server import Address, RecommenderServer, Security, Stopping
    from genrec_serving.predictor import RecommenderModel
    from genrec_serving.surfaces.admission import Admission, AdmissionLimits
    from genrec_serving.surfaces.request_guard import HttpLimits
    from genrec_serving.surfaces.tokens import Tokens
    from genrec_serving.telemetry.metrics import RequestMetrics

    limits = AdmissionLimits(
        running=options.max_running,
        waiting=options.max_waiting,
        wait_s=options.max_wait_s,
        hold_s=options.target_s,
        deadline_s=options.deadline_s,
    )
    token_file = options.token_file or settings().token_file
    security = Security(
        limits=HttpLimits(body_bytes=options.max_body_mb << 20),
        tokens=None if token_file is None else Tokens(token_file),
        open_repository=options.open_repository,
        access_log=options.access_log,
    )
    model: RecommenderModel = RecommenderModel(
        options.model_name,
        load=partial(load_recommender, options),
        metrics=RequestMetrics(),
        admission=Admission(limits),
    )
    address = Address(host=options.host, http_port=options.http_port, grpc_port=options.grpc_port)
    with tracing(options):
        logger.info("listening on %s, ports %d and %d", *vars(address).values())
        RecommenderServer(
            build_app(model.front),
            address=address,
            security=security,
            stopping=Stopping(drain_s=options.drain_s),
        ).run(model)


@contextmanager
def tracing(options: ServerOptions) -> Iterator[None]:
    """Send traces while the block runs, where the options say so."""
    if options.otlp_endpoint is None:
        yield
        return
    from genrec_serving.telemetry.tracing import otlp_exporter, trace_to

    provider = trace_to(otlp_exporter(options.otlp_endpoint), service=options.model_name)
    try:
        yield
    finally:
        provider.shutdown()


def main(
    artifact: Annotated[
        str, typer.Option(help="folder of an artifact, or models:/name@alias, or models:/name/1")
    ],
    model_name: Annotated[str, typer.Option(help="name in the URLs")] = "genrec",
    model_version: Annotated[
        str | None, typer.Option(help="version in answers; by default the registry's")
    ] = None,
    http_port: Annotated[int, typer.Option(help="V1, V2 and the REST API")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="V2 over gRPC")] = 8081,
    host: Annotated[
        str, typer.Option(help="address to listen on; without a token anybody may ask")
    ] = "127.0.0.1",
    histories: Annotated[
        Path | None, typer.Option(help="events.parquet of users whom requests may name")
    ] = None,
    user_store: Annotated[
        str | None,
        typer.Option(help="appended events: memory, sqlite:PATH or redis://HOST:PORT"),
    ] = None,
    events_per_user: Annotated[
        int | None, typer.Option(min=1, help="most appended events kept of a user")
    ] = None,
    max_users: Annotated[int, typer.Option(min=1, help="most users that memory keeps")] = 100_000,
    kv_cache_mb: Annotated[int, typer.Option(min=1, help="memory for cached histories, MiB")] = 128,
    strategy: Annotated[
        str, typer.Option(help="auto, vllm, tensorrt, onnxruntime or torch")
    ] = "auto",
    second_engine: Annotated[
        str | None,
        typer.Option(help="beside vllm, taken by auto where it is cheaper: onnxruntime or torch"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of an engine")] = 1,
    dtype: Annotated[
        DType | None, typer.Option(help="vllm: of weights and pages; by default as the device")
    ] = None,
    page_rows: Annotated[
        int | None, typer.Option(min=16, help="vllm: rows of a page; by default as the device")
    ] = None,
    host_cache_mb: Annotated[
        int, typer.Option(min=0, help="vllm: host memory for pages that leave the pool, MiB")
    ] = 0,
    engine_requests: Annotated[int, typer.Option(min=1, help="vllm: most users of a step")] = 32,
    step_rows: Annotated[int, typer.Option(min=1, help="vllm: most history rows of a step")] = 4096,
    item_cache: Annotated[
        str,
        typer.Option(
            help="vllm: hot rows of the item table on the GPU, the table on the host: auto, on, "
            "off, or a share of the rows"
        ),
    ] = "auto",
    cache_state: Annotated[
        Path | None,
        typer.Option(help="vllm: folder for what its caches learnt, so that a restart is warm"),
    ] = None,
    cache_budget_mb: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="vllm: MiB for histories (--kv-cache-mb of it at first) and hot item rows "
            "together, shared anew at a restart by what served better",
        ),
    ] = None,
    page_order: Annotated[
        str,
        typer.Option(
            help="vllm: whose pages leave first: lru, or return (who hardly comes back soon)"
        ),
    ] = "lru",
    engine_processes: Annotated[
        int | None,
        typer.Option(
            min=0, help="vllm: engines, each a process; 0: in the server's; as the device"
        ),
    ] = None,
    fp8_pages: Annotated[
        bool, typer.Option("--fp8-pages", help="vllm: keys and values in eight bits; CPU only")
    ] = False,
    model_runner: Annotated[
        ModelRunner, typer.Option(help="vllm: v1, or v2, which needs Triton")
    ] = "v1",
    hang_s: Annotated[
        float,
        typer.Option(min=0, help="start an engine again that does nothing so long, s; 0: never"),
    ] = 30.0,
    downloads: Annotated[
        Path | None, typer.Option(help="where artifacts of the registry are put")
    ] = None,
    open_repository: Annotated[
        bool, typer.Option(help="let anybody load and unload models (KServe's default)")
    ] = False,
    max_running: Annotated[int, typer.Option(min=1, help="most users scored at once")] = 64,
    max_waiting: Annotated[int, typer.Option(min=0, help="most users that wait")] = 512,
    max_wait_s: Annotated[
        float, typer.Option(help="refuse a request that would wait longer, seconds")
    ] = 1.0,
    target_s: Annotated[
        float, typer.Option(help="ask the engine less at once while it takes longer, seconds")
    ] = 0.5,
    deadline_s: Annotated[
        float, typer.Option(help="of requests without X-Request-Timeout-Ms, seconds")
    ] = 10.0,
    max_body_mb: Annotated[int, typer.Option(min=1, help="largest request, MiB")] = 32,
    token_file: Annotated[
        Path | None, typer.Option(help="tokens of which a request must show one, one a line")
    ] = None,
    drain_s: Annotated[
        float, typer.Option(min=0, help="seconds not ready but answering before the end")
    ] = 0.0,
    log_format: Annotated[LogFormat, typer.Option(help="text or json")] = "text",
    access_log: Annotated[bool, typer.Option(help="a line for every HTTP request")] = False,
    otlp_endpoint: Annotated[
        str | None, typer.Option(help="send traces there: http://HOST:4318/v1/traces")
    ] = None,
) -> None:
    """Serve a recommender: KServe V1 and V2 (JSON, binary, gRPC) and a REST API with /docs."""
    options = ServerOptions(
        artifact=artifact,
        model_name=model_name,
        model_version=model_version,
        host=host,
        http_port=http_port,
        grpc_port=grpc_port,
        histories=histories,
        user_store=user_store,
        events_per_user=events_per_user,
        max_users=max_users,
        kv_cache_mb=kv_cache_mb,
        strategy=strategy,
        second_engine=second_engine,
        threads=threads,
        dtype=dtype,
        page_rows=page_rows,
        host_cache_mb=host_cache_mb,
        engine_requests=engine_requests,
        step_rows=step_rows,
        item_cache=item_cache,
        cache_state=cache_state,
        cache_budget_mb=cache_budget_mb,
        page_order=page_order,
        engine_processes=engine_processes,
        fp8_pages=fp8_pages,
        model_runner=model_runner,
        hang_s=hang_s,
        downloads=downloads,
        open_repository=open_repository,
        max_running=max_running,
        max_waiting=max_waiting,
        max_wait_s=max_wait_s,
        target_s=target_s,
        deadline_s=deadline_s,
        max_body_mb=max_body_mb,
        token_file=token_file,
        drain_s=drain_s,
        log_format=log_format,
        access_log=access_log,
        otlp_endpoint=otlp_endpoint,
    )
    prepare_process(options)
    try:
        run_server(options)
    except GenrecError as error:
        logger.error("%s", error)  # noqa: TRY400  # the line says it all
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    typer.run(main)
