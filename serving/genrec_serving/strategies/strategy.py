"""Which engine answers a request.

``auto`` takes the first of vLLM, ONNX Runtime and PyTorch that this machine and this model have.
Where the server was started with a second engine beside vLLM, ``auto`` decides for each request by
what both are measured to cost (see `auto`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from genrec_model.artifact import Artifact
from genrec_model.errors import ConfigError, EngineError, EngineUnavailable
from genrec_model.features.rows import UserRows
from genrec_model.hstu import HSTUConfig
from genrec_serving.engines.interface import ScoringEngine
from genrec_serving.engines.supervised import HANG_S, SupervisedEngine
from genrec_serving.engines.vllm_options import VllmOptions
from genrec_serving.strategies.auto import AutoChooser
from genrec_serving.telemetry.memory import resident_mb

logger = logging.getLogger(__name__)

Strategy = Literal["auto", "vllm", "tensorrt", "onnxruntime", "torch"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
#: What ``auto`` tries, in this order.
PREFERRED = ("vllm", "onnxruntime", "torch")
NO_TENSORRT = (
    "tensorrt: this server does not run TensorRT engines; the pipeline builds and stores them with "
    "the model"
)

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
        auto: decides for each request between the first engine and another one.
    """

    def __init__(
        self,
        *,
        factories: Mapping[str, Factory],
        started: Mapping[str, ScoringEngine],
        default: str,
        unavailable: Mapping[str, str],
        auto: AutoChooser | None = None,
    ) -> None:
        self._factories = dict(factories)
        self._started = dict(started)
        self._auto = next(iter(started))
        self._unavailable = dict(unavailable)
        self._starting = asyncio.Lock()
        self._chooser = auto
        self.default = default

    @property
    def healthy(self) -> bool:
        """Whether the engine of most requests can answer."""
        return self._started[self._auto].healthy

    @property
    def given_up(self) -> bool:
        """Whether the engine of most requests will never answer again in this process."""
        return self._started[self._auto].given_up

    @property
    def started(self) -> list[str]:
        """Names of the engines that run."""
        return list(self._started)

    @property
    def unavailable(self) -> dict[str, str]:
        """Engines that cannot be used, and why."""
        return dict(self._unavailable)

    def describe(self) -> dict[str, Any]:
        """For `/v1/stats`."""
        engine = self._started[self._auto]
        return {
            "default": self.default,
            "all": list(STRATEGIES),
            "started": self.started,
            "unavailable": self.unavailable,
            "engine": engine.describe(),
            "auto": None if self._chooser is None else self._chooser.describe(),
        }

    async def statistics(self) -> dict[str, dict[str, Any]]:
        """What each engine says of itself, by its name; what cannot be had is left out."""
        found = {}
        for name, engine in self._started.items():
            try:
                statistics = await engine.statistics()
            except EngineError as error:
                logger.warning("no statistics of %s: %s", name, error)
                continue
            if statistics:
                found[name] = statistics
        return found

    async def measure(self, config: HSTUConfig) -> None:
        """Measure what ``auto`` decides by, where there is something to decide.

        Raises:
            EngineError: an engine failed.
        """
        if self._chooser is not None:
            await self._chooser.measure(config)

    async def choose(
        self, strategy: str | None, rows: UserRows | None = None, candidates: int | None = None
    ) -> Choice:
        """The engine for a request.

        Args:
            strategy: what the request forces; None for the server's default.
            rows: the history; None for a request that says nothing about the others.
            candidates: to rank; None for a recommendation.

        Raises:
            EngineUnavailable: the engine cannot be used here.
            EngineError: it cannot start.
        """
        name = strategy or self.default
        if name == "auto":
            if self._chooser is not None and rows is not None:
                return Choice(engine=self._chooser.choose(rows, candidates))
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
    artifact: Artifact,
    *,
    version: str,
    default: str,
    options: VllmOptions,
    second: str | None = None,
    hang_s: float = HANG_S,
) -> Strategies:
    """Start the engine that most requests will use. Takes seconds; blocks.

    Args:
        artifact: the model.
        version: of the model.
        default: strategy of requests that name none.
        options: for vLLM.
        second: engine beside vLLM that ``auto`` may take, ``onnxruntime`` or ``torch``; it costs
            memory, which is measured.
        hang_s: see `SupervisedEngine`.

    Raises:
        ConfigError: `second` is no such engine, or `default` leaves nothing to decide.
        EngineUnavailable: `default` or `second` cannot be used here.
        EngineError: no engine can start.
    """
    if second is not None and (default != "auto" or second not in PREFERRED[1:]):
        raise ConfigError(
            f"second engine {second}: give {' or '.join(PREFERRED[1:])}, with strategy auto"
        )
    factories: dict[str, Factory] = {
        "vllm": partial(_vllm, artifact, version, options),
        "onnxruntime": partial(_onnx, artifact, options.threads),
        "torch": partial(_torch, artifact),
    }
    unavailable = {"tensorrt": NO_TENSORRT}
    if default in unavailable:
        raise EngineUnavailable(unavailable[default])
    for name in PREFERRED if default == "auto" else (default,):
        try:
            engine = SupervisedEngine(factories[name], hang_s=hang_s)
        except EngineError as error:
            if default != "auto" or name == PREFERRED[-1]:
                raise
            logger.warning("engine %s cannot be used: %s", name, error)
            unavailable[name] = str(error)
            del factories[name]
            continue
        del factories[name]
        logger.info("strategy %s: engine %s", default, name)
        started: dict[str, ScoringEngine] = {name: engine}
        chooser = None
        if second is not None and name == "vllm":
            before = resident_mb()
            started[second] = factories.pop(second)()
            memory_mb = resident_mb() - before
            logger.info("second engine %s: %.0f MB", second, memory_mb)
            chooser = AutoChooser(engine, started[second], second_memory_mb=memory_mb)
        # vLLM takes seconds and much memory to start: with the server, or not at all.
        factories.pop("vllm", None)
        return Strategies(
            factories=factories,
            started=started,
            default=default,
            unavailable=unavailable,
            auto=chooser,
        )
    raise AssertionError("PREFERRED is not empty")


def connected_strategies(
    artifact: Artifact, engine: ScoringEngine, *, default: str, threads: int
) -> Strategies:
    """Strategies over a vLLM engine that somebody else started.

    Args:
        artifact: the model.
        engine: that is asked by default.
        default: strategy of requests that name none: ``auto`` or ``vllm``.
        threads: of the engines that are started here when they are first asked for.
    """
    return Strategies(
        factories={
            "onnxruntime": partial(_onnx, artifact, threads),
            "torch": partial(_torch, artifact),
        },
        started={"vllm": engine},
        default=default,
        unavailable={"tensorrt": NO_TENSORRT},
    )


def _not_started(name: str) -> str:
    return f"{name}: this server was not started with it"


def _vllm(artifact: Artifact, version: str, options: VllmOptions) -> ScoringEngine:
    import torch

    options = options.for_device(cuda=torch.cuda.is_available())
    if options.processes:
        from genrec_serving.engines.vllm_processes import VllmProcesses

        return VllmProcesses(artifact, version=version, options=options)
    from genrec_serving.engines.vllm_engine import VllmEngine

    return VllmEngine(artifact, version=version, options=options)


def _onnx(artifact: Artifact, threads: int) -> ScoringEngine:
    from genrec_serving.engines.onnx_engine import OnnxEngine

    return OnnxEngine(artifact, threads=threads)


def _torch(artifact: Artifact) -> ScoringEngine:
    from genrec_serving.engines.torch_engine import TorchEngine

    return TorchEngine(artifact)
