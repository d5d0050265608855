"""Which engine answers a request.

``auto`` takes the first of vLLM, ONNX Runtime and PyTorch that this machine and this model have.
On a CPU that is vLLM, since it computes a history only once. (A table of measured costs that
decides for each request is a later step; so is running TensorRT engines here.)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from genrec_model.artifact import Artifact
from genrec_model.errors import EngineError, EngineUnavailable
from genrec_serving.engines.interface import ScoringEngine
from genrec_serving.engines.vllm_engine import VllmOptions

logger = logging.getLogger(__name__)

Strategy = Literal["auto", "vllm", "tensorrt", "onnxruntime", "torch"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
#: What ``auto`` tries, in this order.
PREFERRED = ("vllm", "onnxruntime", "torch")

Factory = Callable[[], ScoringEngine]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The engine for a request.

    Args:
        fallback: why it is not the preferred one; None where it is.
    """

    engine: ScoringEngine
    fallback: str | None = None


class Strategies:
    """Engines by name: one that is started with the server, others when first asked for.

    Args:
        factories: how to start each engine that may be started later; they raise `EngineError`.
        started: engines that run already; the first is the one of ``auto``.
        default: strategy of a request that names none.
        unavailable: why the others cannot be used.
    """

    def __init__(
        self,
        *,
        factories: Mapping[str, Factory],
        started: Mapping[str, ScoringEngine],
        default: str,
        unavailable: Mapping[str, str],
    ) -> None:
        self._factories = dict(factories)
        self._started = dict(started)
        self._auto = next(iter(started))
        self._unavailable = dict(unavailable)
        self._starting = asyncio.Lock()
        self.default = default

    @property
    def healthy(self) -> bool:
        """Whether the engine of most requests can answer."""
        return self._started[self._auto].healthy

    @property
    def started(self) -> list[str]:
        """Names of the engines that run."""
        return list(self._started)

    @property
    def unavailable(self) -> dict[str, str]:
        """Engines that cannot be used, and why."""
        return dict(self._unavailable)

    async def choose(self, strategy: str | None) -> Choice:
        """The engine for a request.

        Args:
            strategy: what the request forces; None for the server's default.

        Raises:
            EngineUnavailable: the engine cannot be used here.
            EngineError: it cannot start.
        """
        name = strategy or self.default
        if name == "auto":
            reasons = [
                self._unavailable.get(better, _not_started(better))
                for better in PREFERRED[: PREFERRED.index(self._auto)]
            ]
            return Choice(engine=self._started[self._auto], fallback="; ".join(reasons) or None)
        if name not in self._started:
            async with self._starting:
                if name not in self._started:
                    self._started[name] = await self._start(name)
        return Choice(engine=self._started[name])

    async def _start(self, name: str) -> ScoringEngine:
        if name in self._unavailable:
            raise EngineUnavailable(self._unavailable[name])
        if name not in self._factories:
            raise EngineUnavailable(_not_started(name))
        try:
            engine = await asyncio.to_thread(self._factories[name])
        except EngineUnavailable as error:
            self._unavailable[name] = str(error)
            raise
        logger.info("engine %s started on request", name)
        return engine

    def close(self) -> None:
        """Close all engines."""
        for engine in self._started.values():
            engine.close()


def start_strategies(
    artifact: Artifact, *, version: str, default: str, options: VllmOptions
) -> Strategies:
    """Start the engine that most requests will use. Takes seconds; blocks.

    Args:
        artifact: the model.
        version: of the model.
        default: strategy of requests that name none.
        options: for vLLM.

    Raises:
        EngineUnavailable: `default` cannot be used here.
        EngineError: no engine can start.
    """
    factories: dict[str, Factory] = {
        "vllm": partial(_vllm, artifact, version, options),
        "onnxruntime": partial(_onnx, artifact, options.threads),
        "torch": partial(_torch, artifact),
    }
    unavailable = {"tensorrt": "tensorrt: this server cannot run TensorRT engines (no NVIDIA GPU)"}
    if default in unavailable:
        raise EngineUnavailable(unavailable[default])
    for name in PREFERRED if default == "auto" else (default,):
        try:
            engine = factories.pop(name)()
        except EngineError as error:
            if default != "auto" or name == PREFERRED[-1]:
                raise
            logger.warning("engine %s cannot be used: %s", name, error)
            unavailable[name] = str(error)
            continue
        logger.info("strategy %s: engine %s", default, name)
        # vLLM takes seconds and much memory to start: with the server, or not at all.
        factories.pop("vllm", None)
        return Strategies(
            factories=factories, started={name: engine}, default=default, unavailable=unavailable
        )
    raise AssertionError("PREFERRED is not empty")


def _not_started(name: str) -> str:
    return f"{name}: this server was not started with it"


def _vllm(artifact: Artifact, version: str, options: VllmOptions) -> ScoringEngine:
    from genrec_serving.engines.vllm_engine import VllmEngine

    return VllmEngine(artifact, version=version, options=options)


def _onnx(artifact: Artifact, threads: int) -> ScoringEngine:
    from genrec_serving.engines.onnx_engine import OnnxEngine

    return OnnxEngine(artifact, threads=threads)


def _torch(artifact: Artifact) -> ScoringEngine:
    from genrec_serving.engines.torch_engine import TorchEngine

    return TorchEngine(artifact)
