"""What the model server is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from genrec_serving.telemetry.logs import LogFormat

if TYPE_CHECKING:
    from genrec_serving.engines.vllm_options import VllmOptions

DType = Literal["float32", "bfloat16", "float16"]
ModelRunner = Literal["v1", "v2"]


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
        http_processes: processes that take requests; more than one have the engines in processes
            of their own, and share them (see `fronts.supervisor`).
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
            fp8_pages, fp8_linear, item_cache: see `VllmOptions`.
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
    http_processes: int = 1
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
    fp8_linear: bool = False
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
        fp8_linear=options.fp8_linear,
        model_runner=options.model_runner,
        item_cache=options.item_cache,
        cache_state=None if state is None else str(state / options.model_name),
        cache_budget_mb=options.cache_budget_mb,
        page_order=options.page_order,
    )
