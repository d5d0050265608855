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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from genrec_model.errors import GenrecError, UserError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from genrec_serving.metrics import RequestMetrics
    from genrec_serving.predictor import RecommenderModel
    from genrec_serving.recommender import Recommender

# Not `__name__`, which is `__main__` where this is the program.
logger = logging.getLogger("genrec_serving.server")

REGISTRY_SCHEME = "models:/"


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """All that the server is told.

    Args:
        artifact: folder of an artifact, or ``models:/name@alias`` or ``models:/name/version``.
        model_name: name in the URLs.
        model_version: version that answers carry; the registry's, or the start of the weights'
            SHA-256, where None.
        host: address to listen on; there is no authentication, so the default is this machine.
        http_port: V1, V2 and the REST API.
        grpc_port: V2 over gRPC.
        histories: event table whose users requests may name.
        user_store: where appended events are kept: ``memory``, ``sqlite:PATH`` or a Redis URL;
            the setting of that name where None.
        events_per_user: most events that are kept of a user; enough for the model where None.
        max_users: most users that the store ``memory`` keeps.
        kv_cache_mb: memory for cached histories, in MiB.
        strategy: engine of requests that name none.
        threads: CPU threads of an engine.
        downloads: where artifacts of the registry are put; under the project's home where None.
        open_repository: whether anybody may load and unload models.
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
    threads: int = 1
    downloads: Path | None = None
    open_repository: bool = False


def prepare_process(options: ServerOptions) -> None:
    """Set up logging, and what numerical libraries read from the environment at their import."""
    # More OpenMP threads than these would spin while the engine waits for requests.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # Deprecations inside of libraries are nothing that an operator could act on.
    warnings.simplefilter("ignore")
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
            },
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
            },
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "genrec_serving": {"level": "INFO"},
                # A handler of its own keeps KServe from setting up its logging over this one.
                "kserve": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            },
        }
    )


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


def load_recommender(options: ServerOptions) -> Recommender:
    """The recommender with its engine started. Takes seconds; blocks.

    Raises:
        GenrecError: something that it needs is missing or broken.
    """
    from genrec_model.artifact import Artifact
    from genrec_model.settings import settings
    from genrec_serving.engines.vllm_engine import VllmOptions
    from genrec_serving.histories import ParquetHistories
    from genrec_serving.recommender import Recommender
    from genrec_serving.strategy import start_strategies
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
        options=VllmOptions(kv_cache_mb=options.kv_cache_mb, threads=options.threads),
    )
    return Recommender(
        artifact=artifact,
        strategies=strategies,
        name=options.model_name,
        version=version,
        users=UserHistories(artifact.vocabulary, store=store, base=base),
    )


def build_app(recommender: Callable[[], Recommender], metrics: RequestMetrics) -> FastAPI:
    """The web application with the REST API; KServe adds its routes when the server starts."""
    from fastapi import FastAPI

    from genrec_serving.rest import rest_router
    from genrec_serving.rest_users import users_router

    app = FastAPI(
        title="genrec",
        summary="Recommendations of an HSTU model",
        docs_url="/docs",
        redoc_url=None,
    )
    app.include_router(rest_router(recommender, metrics))
    app.include_router(users_router(recommender))
    return app


def run_server(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        GenrecError: the model cannot be loaded.
    """
    from genrec_serving.kserve_server import Address, RecommenderServer
    from genrec_serving.metrics import RequestMetrics
    from genrec_serving.predictor import RecommenderModel

    metrics = RequestMetrics()
    model: RecommenderModel = RecommenderModel(
        options.model_name, load=partial(load_recommender, options), metrics=metrics
    )
    app = build_app(lambda: model.recommender, metrics)
    address = Address(host=options.host, http_port=options.http_port, grpc_port=options.grpc_port)
    logger.info("listening on %s, ports %d and %d", *vars(address).values())
    server = RecommenderServer(app, address=address, open_repository=options.open_repository)
    server.run(model)


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
        str, typer.Option(help="address to listen on; there is no authentication")
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
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of an engine")] = 1,
    downloads: Annotated[
        Path | None, typer.Option(help="where artifacts of the registry are put")
    ] = None,
    open_repository: Annotated[
        bool, typer.Option(help="let anybody load and unload models (KServe's default)")
    ] = False,
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
        threads=threads,
        downloads=downloads,
        open_repository=open_repository,
    )
    prepare_process(options)
    try:
        run_server(options)
    except GenrecError as error:
        logger.error("%s", error)  # noqa: TRY400  # the line says it all
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    typer.run(main)
