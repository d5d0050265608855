"""The parts of a model server, made as its options say.

Heavy libraries are imported inside, after the environment is prepared, as some of them read it when
they are imported.
"""

from __future__ import annotations

import logging.config
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from genrec_serving.server_artifact import resolve
from genrec_serving.server_options import ServerOptions, vllm_options
from genrec_serving.telemetry.logs import logging_config

if TYPE_CHECKING:
    from fastapi import FastAPI

    from genrec_model.artifact import Artifact
    from genrec_serving.kserve_server import Security
    from genrec_serving.recommender import Recommender
    from genrec_serving.strategies.strategy import Strategies
    from genrec_serving.surfaces.admission import AdmissionLimits
    from genrec_serving.surfaces.front import Front
    from genrec_serving.surfaces.gathering import Gather
    from genrec_serving.users.store import HistoryStore


def prepare_process(options: ServerOptions) -> None:
    """Set up logging, and what numerical libraries read from the environment at their import."""
    # More OpenMP threads than these would spin while the engine waits for requests.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    # Deprecations inside of libraries are nothing that an operator could act on.
    warnings.simplefilter("ignore")
    logging.config.dictConfig(logging_config(options.log_format))


def load_recommender(options: ServerOptions) -> Recommender:
    """The recommender with its engine started. Takes seconds; blocks.

    Raises:
        GenrecError: something that it needs is missing or broken.
    """
    from genrec_serving.strategies.strategy import start_strategies

    def start(artifact: Artifact, version: str) -> Strategies:
        return start_strategies(
            artifact,
            version=version,
            default=options.strategy,
            options=vllm_options(options),
            second=options.second_engine,
            hang_s=options.hang_s,
        )

    return build_recommender(options, start)


def build_recommender(
    options: ServerOptions,
    start: Callable[[Artifact, str], Strategies],
    reach_store: Callable[[Artifact], HistoryStore] | None = None,
) -> Recommender:
    """The recommender over the engines that `start` gives for an artifact and its version.

    Args:
        options: of the server.
        start: gives the engines.
        reach_store: gives the store of users, where another process has it open.

    Raises:
        GenrecError: something that it needs is missing or broken.
    """
    from genrec_model.artifact import Artifact
    from genrec_serving.histories import ParquetHistories
    from genrec_serving.recommender import Recommender
    from genrec_serving.users.histories import UserHistories

    path, version = resolve(options)
    artifact = Artifact(path)
    base = None
    if options.histories is not None:
        base = ParquetHistories(options.histories, artifact.vocabulary)
    store = _open_store(options, artifact) if reach_store is None else reach_store(artifact)
    return Recommender(
        artifact=artifact,
        strategies=start(artifact, version),
        name=options.model_name,
        version=version,
        users=UserHistories(artifact.vocabulary, store=store, base=base),
    )


def _open_store(options: ServerOptions, artifact: Artifact) -> HistoryStore:
    from genrec_model.settings import settings
    from genrec_serving.users.open_store import open_store

    return open_store(
        options.user_store or settings().user_store,
        max_history=artifact.config.max_history,
        events_per_user=options.events_per_user,
        max_users=options.max_users,
    )


def build_app(front: Front, gather: Gather | None = None) -> FastAPI:
    """The web application with the REST API; KServe adds its routes when the server starts.

    Args:
        front: the door to the recommender.
        gather: gives the numbers of all processes that take requests, where there are others.
    """
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
    app.include_router(rest_router(front, gather))
    app.include_router(users_router(front.recommender))
    app.include_router(metrics_router(front, gather))
    app.add_middleware(HotRoutes, api=RecommendApi(front), recommender=front.recommender)
    return app


def admission_limits(options: ServerOptions) -> AdmissionLimits:
    """Of one of the processes that take requests: each has its part of the places, rounded up.

    Raises:
        ConfigError: a limit makes no sense.
    """
    from genrec_serving.surfaces.admission import AdmissionLimits

    count = options.http_processes
    return AdmissionLimits(
        running=-(-options.max_running // count),
        waiting=-(-options.max_waiting // count),
        wait_s=options.max_wait_s,
        hold_s=options.target_s,
        deadline_s=options.deadline_s,
    )


def security(options: ServerOptions) -> Security:
    """Who may ask, and how much.

    Raises:
        ConfigError: a limit makes no sense, or the tokens cannot be read.
    """
    from genrec_model.settings import settings
    from genrec_serving.kserve_server import Security
    from genrec_serving.surfaces.request_guard import HttpLimits
    from genrec_serving.surfaces.tokens import Tokens

    token_file = options.token_file or settings().token_file
    return Security(
        limits=HttpLimits(body_bytes=options.max_body_mb << 20),
        tokens=None if token_file is None else Tokens(token_file),
        open_repository=options.open_repository,
        access_log=options.access_log,
    )


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
