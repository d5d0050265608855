"""The model server: ``python -m genrec_serving.server --artifact DIR|models:/name@alias``."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from genrec_model.errors import GenrecError, UserError
from genrec_serving.server_options import DType, ModelRunner, ServerOptions
from genrec_serving.server_parts import (
    admission_limits,
    build_app,
    load_recommender,
    prepare_process,
    security,
    tracing,
)
from genrec_serving.telemetry.logs import LogFormat

# Not `__name__`, which is `__main__` where this is the program.
logger = logging.getLogger("genrec_serving.server")


def run_server(options: ServerOptions) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        GenrecError: the model cannot be loaded.
    """
    if options.http_processes > 1:
        from genrec_serving.fronts.supervisor import run_supervisor

        run_supervisor(options)
        return
    from genrec_serving.kserve_server import Address, RecommenderServer, Stopping
    from genrec_serving.predictor import RecommenderModel
    from genrec_serving.surfaces.admission import Admission
    from genrec_serving.telemetry.metrics import RequestMetrics

    model: RecommenderModel = RecommenderModel(
        options.model_name,
        load=partial(load_recommender, options),
        metrics=RequestMetrics(),
        admission=Admission(admission_limits(options)),
    )
    address = Address(host=options.host, http_port=options.http_port, grpc_port=options.grpc_port)
    with tracing(options):
        ports = address.http_port, options.grpc_port
        logger.info("listening on %s, ports %d and %d", address.host, *ports)
        RecommenderServer(
            build_app(model.front),
            address=address,
            security=security(options),
            stopping=Stopping(drain_s=options.drain_s),
        ).run(model)


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
    http_processes: Annotated[
        int,
        typer.Option(min=1, help="that take requests, and share the engines' processes"),
    ] = 1,
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
        bool, typer.Option("--fp8-pages", help="vllm: keys and values in eight bits")
    ] = False,
    fp8_linear: Annotated[
        bool, typer.Option("--fp8-linear", help="vllm: linear layers in eight bits")
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
    options = ServerOptions(**locals())
    prepare_process(options)
    try:
        run_server(options)
    except GenrecError as error:
        logger.error("%s", error)  # noqa: TRY400  # the line says it all
        sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    typer.run(main)
