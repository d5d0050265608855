"""vLLM's engine core without the front that vLLM puts before it.

The front (input processor, output processor) is made for text: it checks and copies what is checked
already, and hashes prompts by pickling them. For a short step that costs more than the model. So
requests are built here, and their prefixes are hashed here, a page's bytes at a time; scheduling,
pages, preemption and prefix caching stay vLLM's own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from torch import Tensor

from genrec_serving.vllm_plugin.pooler import TASK
from genrec_serving.vllm_plugin.prefix_hashes import PrefixHasher

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine


@dataclass(frozen=True)
class Answer:
    """What the pooler said about one request.

    Args:
        request_id: as it was given.
        columns: see `HSTUPooler`; on the CPU.
        cached_rows: history rows that were not computed again.
    """

    request_id: str
    columns: Tensor
    cached_rows: int


def _itself(model: Any) -> Any:
    return model


class CoreClient:
    """Adds requests to vLLM's engine core in this process, and steps it.

    Args:
        engine: as vLLM starts it.
        salt: see `PrefixHasher`.
    """

    def __init__(self, engine: LLMEngine, salt: str) -> None:
        from vllm import PoolingParams
        from vllm.v1.engine import EngineCoreRequest

        self._core: Any = engine.engine_core
        (self._model,) = engine.apply_model(_itself)
        self._request = EngineCoreRequest
        self._params = PoolingParams
        # What a version of vLLM asks for beyond what is said below, and has no default.
        self._unused = dict.fromkeys(
            field.name for field in msgspec.structs.fields(EngineCoreRequest) if field.required
        )
        # One row less than vLLM allows, which wants room for a token that it generates.
        self._max_rows = engine.vllm_config.model_config.max_model_len - 1
        page_rows = engine.vllm_config.cache_config.block_size
        assert self._core.engine_core.request_block_hasher is not None
        self._core.engine_core.request_block_hasher = PrefixHasher(page_rows, salt)

    def add(self, request_id: str, prompt: Tensor, kwargs: dict[str, Any]) -> None:
        """Hand a request to the scheduler.

        Args:
            request_id: no other one of the moment.
            prompt: history of one user, from `pack`, checked by the caller.
            kwargs: what is asked, from `pooling_request`.

        Raises:
            ValueError: it is empty or longer than the model sees; others are not touched.
        """
        if not 1 <= len(prompt) <= self._max_rows:  # the scheduler would never finish it
            raise ValueError(
                f"a history of {len(prompt)} rows is not between 1 and {self._max_rows}"
            )
        params = self._params(task=TASK, extra_kwargs=kwargs, skip_reading_prefix_cache=False)
        self._core.add_request(
            self._request(
                **self._unused
                | {
                    "request_id": request_id,
                    "prompt_embeds": prompt,
                    "pooling_params": params,
                    "arrival_time": time.time(),
                }
            )
        )

    def drop(self, request_id: str) -> None:
        """Forget a request, wherever it is; one that is answered already is none."""
        self._core.abort_requests([request_id])

    def step(self) -> Iterator[Answer]:
        """Run one step of all requests; gives those that it finished."""
        for output in self._core.get_output().outputs:
            if output.pooling_output is None:
                continue
            stats = output.prefill_stats
            cached = 0 if stats is None else stats.num_cached_tokens
            yield Answer(output.request_id, output.pooling_output, cached)

    def statistics(self) -> dict[str, Any]:
        """Of the scheduler and the model, by name; from any thread, without waiting for a step."""
        scheduler = self._core.engine_core.scheduler
        running, waiting = scheduler.get_request_counts()
        return {
            "kv_cache_usage": round(scheduler.kv_cache_manager.usage, 4),
            "running": running,
            "waiting": waiting,
            "host_cache": None if scheduler.connector is None else scheduler.connector.statistics(),
            **self._model.statistics(),
        }

    def close(self) -> None:
        """End the engine core, and let the model keep what it learnt."""
        self._model.close()
        self._core.shutdown()
