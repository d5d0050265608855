"""vLLM's engine in this process, driven by one thread.

vLLM usually runs its engine in a process of its own, with a socket and msgpack between. For a
model of some megabytes that costs a second gigabyte of memory and more time than the model takes,
so here the engine lives in a thread: requests come in by a queue, every turn of the thread's loop
admits all that wait and runs one step (continuous batching), and answers go out through futures.
`vllm_processes` has engines in processes of their own, for GPUs and for more cores.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError, EngineError, EngineUnavailable
from genrec_model.features.rows import UserRows
from genrec_model.hstu import HSTUConfig
from genrec_serving.engines.interface import Scored, describe
from genrec_serving.engines.paged_engine import PagedEngine, fail, resolve
from genrec_serving.engines.vllm_environment import prepare_environment
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.vllm_plugin.prompt import pack

if TYPE_CHECKING:
    from vllm.config import KVTransferConfig

    from genrec_serving.vllm_plugin.core_client import Answer, CoreClient

logger = logging.getLogger(__name__)

_SECONDS_TO_CLOSE = 30


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request on its way to the engine's thread, and where its answer goes."""

    prompt: Tensor
    kwargs: dict[str, Any]
    answer: Future[Scored]


@dataclass(frozen=True)
class Dropped:
    """Nobody waits for the answer to a request any more."""

    request_id: str


class VllmEngine(PagedEngine):
    """HSTU in vLLM: continuous batching, and histories that are computed once.

    One a process: vLLM keeps its process groups in globals, so that closing an engine ends
    every other one beside it.

    Args:
        artifact: the model.
        version: salts the prefix cache.
        options: how large the engine is.

    Raises:
        EngineUnavailable: vLLM is not installed.
        EngineError: vLLM cannot start.
    """

    def __init__(self, artifact: Artifact, *, version: str, options: VllmOptions) -> None:
        self._salt = version
        self._options = options
        self._jobs: queue.SimpleQueue[Job | Dropped | None] = queue.SimpleQueue()
        # Holds off new jobs while the thread ends, so that none is left in the queue.
        self._gate = threading.Lock()
        self._end: str | None = None
        self._ids = itertools.count()
        self._pending: dict[str, Job] = {}
        #: When the turn began that the thread's loop is in; None while it waits for jobs.
        self._turn_began: float | None = None
        self._abandoned = False
        #: Called when all answers of a step are given, or when the engine fails those who wait.
        self.answered: Callable[[], None] = _nothing
        self._engine: CoreClient | None = None
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(artifact, started), name="engine-vllm", daemon=True
        )
        self._thread.start()
        started.result()

    @property
    def healthy(self) -> bool:
        """False once the engine failed or was closed."""
        return self._end is None

    @property
    def stalled_s(self) -> float:
        """As the base class says: seconds that the step under way has taken."""
        began = self._turn_began
        return 0.0 if began is None else time.monotonic() - began

    def ask(self, rows: UserRows, kwargs: dict[str, Any]) -> Future[Scored]:
        """As the base class says."""
        return self.submit(pack(rows), kwargs)

    async def statistics(self) -> dict[str, Any]:
        """As the base class says: of the scheduler, the graphs and the item cache."""
        return self.current_statistics()

    def current_statistics(self) -> dict[str, Any]:
        """The same, from any thread.

        Raises:
            EngineError: the engine failed or was closed.
        """
        if self._end is not None or self._engine is None:
            raise EngineError(self._end or "engine vllm: it is starting")
        return self._engine.statistics()

    def close(self) -> None:
        """Fail what is waiting and end the thread.

        Raises:
            EngineError: the thread does not end: nothing can end it from outside.
        """
        self._jobs.put(None)
        self._thread.join(timeout=0 if self._abandoned else _SECONDS_TO_CLOSE)
        if self._thread.is_alive():
            raise EngineError("engine vllm: its thread hangs, and keeps its memory")

    def abandon(self, cause: str) -> None:
        """As the base class says."""
        self._abandoned = True
        self._finish(cause)

    def submit(self, prompt: Tensor, kwargs: dict[str, Any]) -> Future[Scored]:
        """Hand a request to the engine's thread, from any thread.

        Args:
            prompt: history rows, from `pack`.
            kwargs: what is asked, from `pooling_request`.

        Raises:
            EngineError: the engine failed or was closed.
        """
        answer: Future[Scored] = Future()
        with self._gate:
            if self._end is not None:
                raise EngineError(self._end)
            self._jobs.put(Job(prompt=prompt, kwargs=kwargs, answer=answer))
        return answer

    def _run(self, artifact: Artifact, started: Future[None]) -> None:
        """The thread: start, serve until told to stop, and leave nobody waiting."""
        try:
            torch.set_num_threads(self._options.threads)  # a thread's own in OpenMP
            engine = build_engine(artifact, self._options, salt=self._salt)
        except Exception as error:
            # The one who waits for the start gets it, whatever it is.
            started.set_exception(_start_error(error))
            return
        self._engine = engine
        started.set_result(None)
        end = "engine vllm: it was closed"
        try:
            self._serve(engine, self._pending)
        except Exception as error:
            logger.exception("engine vllm failed")
            end = f"engine vllm: it failed ({describe(error)}) and must be started again"
        self._finish(end)
        # What vLLM closes are globals, which the engine has that took its place.
        if not self._abandoned:
            engine.close()

    def _serve(self, engine: CoreClient, pending: dict[str, Job]) -> None:
        """Admit, step, answer, until a None comes."""
        while not self._abandoned and self._admit(engine, pending):
            self._turn_began = time.monotonic()
            for answer in engine.step():
                resolve(pending.pop(answer.request_id).answer, _scored(answer))
            self.answered()
            self._turn_began = None

    def _admit(self, engine: CoreClient, pending: dict[str, Job]) -> bool:
        """Hand all waiting jobs to the scheduler; wait for one where there is nothing to do."""
        while True:
            try:
                job = self._jobs.get(block=not pending)
            except queue.Empty:
                return True
            if job is None:
                return False
            if isinstance(job, Job):
                self._add(engine, job, pending)
            elif pending.pop(job.request_id, None) is not None:
                engine.drop(job.request_id)

    def _add(self, engine: CoreClient, job: Job, pending: dict[str, Job]) -> None:
        if job.answer.cancelled():
            return
        request_id = str(next(self._ids))
        try:
            engine.add(request_id, job.prompt, job.kwargs)
        except ValueError as error:
            # vLLM refuses this request; it has not touched the others.
            fail(job.answer, f"engine vllm: {describe(error)}")
            return
        pending[request_id] = job
        job.answer.add_done_callback(partial(self._answered, request_id))

    def _answered(self, request_id: str, answer: Future[Scored]) -> None:
        # Whoever asked is gone, or their deadline is past: the rest need not be computed.
        if answer.cancelled():
            self._jobs.put(Dropped(request_id))

    def _finish(self, end: str) -> None:
        with self._gate:
            if self._end is not None:
                return
            self._end = end
            for job in list(self._pending.values()):
                fail(job.answer, end)
            while not self._jobs.empty():
                waiting = self._jobs.get()
                if isinstance(waiting, Job):
                    fail(waiting.answer, end)
        self.answered()


def _nothing() -> None:
    """Nobody wants to know."""


def build_engine(artifact: Artifact, options: VllmOptions, *, salt: str) -> CoreClient:
    """vLLM's engine with this model, in this process.

    Args:
        artifact: the model.
        options: how large the engine is.
        salt: of the prefix cache.

    Raises:
        ImportError: vLLM is not installed.
        Exception: whatever vLLM raises where it cannot start.
    """
    prepare_environment(model_runner=options.model_runner)
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from genrec_serving.vllm_plugin import register
    from genrec_serving.vllm_plugin.compute import additional_config
    from genrec_serving.vllm_plugin.watched_client import WatchedClient

    register(load_class=True)
    config = artifact.config
    options = options.for_device(cuda=torch.cuda.is_available())
    assert options.page_rows is not None
    assert options.dtype is not None
    assert options.passes is not None
    if config.chunk_size % options.page_rows:
        logger.warning(
            "histories are cut in chunks of %d events, which is no multiple of the %d rows of a "
            "page: a cut history keeps less of its cache",
            config.chunk_size,
            options.page_rows,
        )
    plan = options.memory_plan(artifact)
    items = options.item_cache_options(artifact)
    kv_bytes = options.kv_cache_mb << 20
    if plan is not None:
        kv_bytes = plan.in_force.kv
        items = replace(items, mode="on", slot_bytes=plan.in_force.rows)
    # vLLM warns about budgets that no batch could fill.
    largest_step = options.max_requests * (config.max_rows + 1)
    arguments = EngineArgs(
        model=str(artifact.path),
        runner="pooling",
        skip_tokenizer_init=True,
        enable_prompt_embeds=True,
        dtype="float32",
        enforce_eager=True,
        max_model_len=config.max_rows + 1,
        block_size=options.page_rows,
        kv_cache_memory_bytes=kv_bytes,
        # Only what vLLM wants free before it starts: several engines may share a GPU.
        gpu_memory_utilization=_share_of_gpu(kv_bytes),
        max_num_seqs=options.max_requests,
        max_num_batched_tokens=min(options.max_step_rows, largest_step),
        enable_prefix_caching=True,
        kv_transfer_config=host_transfer(config, options),
        enable_chunked_prefill=True,
        # vLLM leaves this off for pooling models, which mostly wait for the GPU within a step; ours
        # does not. What watches memory wants the time of each step, and pages that come from the
        # host are waited for there.
        async_scheduling=torch.cuda.is_available() and plan is None and not options.host_cache_mb,
        disable_log_stats=True,
        use_tqdm_on_load=False,
        additional_config=additional_config(
            dtype=options.dtype,
            passes=options.passes,
            item_cache=items,
            fp8_pages=options.fp8_pages,
            fp8_linear=options.fp8_linear,
        ),
    )
    engine = LLMEngine.from_engine_args(arguments)
    return WatchedClient(engine, salt, plan=plan, page_order=options.page_order)


def _share_of_gpu(kv_bytes: int) -> float:
    """The pages' share of the GPU's memory; vLLM's default where there is none."""
    if not torch.cuda.is_available():
        return 0.92
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return min(max(kv_bytes / total, 0.01), 1.0)


def host_transfer(config: HSTUConfig, options: VllmOptions) -> KVTransferConfig | None:
    """How vLLM finds the second home of pages; None where there is none.

    Args:
        config: of the model.
        options: with nothing left open.

    Raises:
        ConfigError: the host's memory does not hold a page.
    """
    if not options.host_cache_mb:
        return None
    from vllm.config import KVTransferConfig

    assert options.page_rows is not None
    width = 1 if options.fp8_pages else getattr(torch, options.dtype or "float32").itemsize
    # Keys and values of all layers, and the time.
    row_bytes = 2 * config.num_layers * config.num_heads * config.head_dim * width + 8
    slots = (options.host_cache_mb << 20) // (row_bytes * options.page_rows)
    if not slots:
        raise ConfigError(f"{options.host_cache_mb} MiB of the host's memory do not hold a page")
    return KVTransferConfig(
        kv_connector="HostConnector",
        kv_connector_module_path="genrec_serving.vllm_plugin.host_connector",
        kv_role="kv_both",
        kv_connector_extra_config={
            "slots": slots,
            "page_rows": options.page_rows,
            "row_bytes": row_bytes,
        },
    )


def _start_error(error: Exception) -> EngineError:
    if isinstance(error, ImportError):
        failure: EngineError = EngineUnavailable(f"vllm: it cannot be imported ({describe(error)})")
    else:
        failure = EngineError(f"vllm: it cannot start ({describe(error)})")
    failure.__cause__ = error
    return failure


def _scored(answer: Answer) -> Scored:
    """The pooler's columns (see `vllm_plugin.pooler`) by name."""
    columns = answer.columns.numpy()
    found = columns[:, 0] >= 0
    if not found.all():
        columns = columns[found]
    return Scored(
        items=columns[:, 0].astype(np.int64),
        scores=columns[:, 1].astype(np.float32),
        task_logits=columns[:, 2:].astype(np.float32),
        cached_rows=max(answer.cached_rows, 0),
    )
