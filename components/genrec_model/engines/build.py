"""Engines of an artifact: built, measured where they can run, and recorded."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from genrec_model.artifact import Artifact
from genrec_model.engines.base import (
    EngineBuilder,
    EngineRecord,
    Precision,
    Profile,
    engine_name,
    parse_engine_name,
    sha256,
)
from genrec_model.engines.onnxruntime_engine import OnnxRuntimeBuilder, load_onnx
from genrec_model.engines.precision import write_precision
from genrec_model.engines.tensorrt_engine import TensorRTBuilder
from genrec_model.errors import ArtifactError, ConfigError, EngineUnavailable
from genrec_model.export.padded import padded_inputs
from genrec_model.export.parity import Parity, measure_parity, parity_users

logger = logging.getLogger(__name__)

#: Builders by the name of their backend.
BUILDERS: dict[str, EngineBuilder] = {
    builder.name: builder
    for builder in (
        OnnxRuntimeBuilder(),
        TensorRTBuilder("tensorrt", "tensorrt"),
        TensorRTBuilder("tensorrt-rtx", "tensorrt_rtx_bindings"),
    )
}
#: Largest error as a share of the spread of task logits. fp32 has a bound of its own.
TOLERANCE: dict[Precision, float] = {"fp16": 0.01, "int8": 0.05, "fp8": 0.10}
FP32_TOLERANCE = 1e-4
CALIBRATION_USERS = 16


def build_engines(artifact: Artifact, names: Sequence[str]) -> list[EngineRecord]:
    """Build the engines named, for example ``onnxruntime-fp32`` and ``tensorrt-rtx-fp16``.

    Each goes to ``engines/<name>`` of the artifact, with its ``engine.json``. The graph of each
    precision must pass the parity gate; an engine that can run here must pass it itself.

    Raises:
        ConfigError: an unknown backend, or a precision that it lacks.
        ArtifactError: the artifact has no ONNX.
        EngineUnavailable: a backend cannot build on this machine.
        GateFailed: an engine or its graph strays too far from plain PyTorch.
    """
    wanted = [_resolve(name) for name in names]
    plain = artifact.path / "onnx" / "plain.onnx"
    if not plain.is_file():
        raise ArtifactError(f"{artifact.path}: no ONNX here (onnx/plain.onnx); export it first")
    users = parity_users(artifact)
    calibration = padded_inputs(users[:CALIBRATION_USERS])
    records = []
    with tempfile.TemporaryDirectory() as folder:
        graphs: dict[Precision, tuple[Path, Parity]] = {}
        for builder, precision in wanted:
            if precision not in graphs:
                graph = Path(folder) / f"{precision}.onnx"
                write_precision(plain, graph, precision, calibration)
                parity = measure_parity(artifact, users, load_onnx(graph))
                _require(parity, f"the {precision} graph", precision)
                graphs[precision] = graph, parity
            graph, parity = graphs[precision]
            records.append(_build(artifact, builder, precision, graph, parity))
    return records


def engine_records(artifact: Artifact) -> list[EngineRecord]:
    """Records of the artifact's engines, by name."""
    return [
        EngineRecord.load(path.parent)
        for path in sorted((artifact.path / "engines").glob("*/engine.json"))
    ]


def _resolve(name: str) -> tuple[EngineBuilder, Precision]:
    backend, precision = parse_engine_name(name)
    builder = BUILDERS.get(backend)
    if builder is None:
        raise ConfigError(f"engine {name!r}: backend is one of {', '.join(BUILDERS)}")
    if precision not in builder.precisions:
        raise ConfigError(f"engine {name!r}: {backend} builds {', '.join(builder.precisions)}")
    reason = builder.unavailable()
    if reason is not None:
        raise EngineUnavailable(f"engine {name!r} cannot be built here: {reason}")
    return builder, precision


def _build(
    artifact: Artifact, builder: EngineBuilder, precision: Precision, graph: Path, parity: Parity
) -> EngineRecord:
    folder = artifact.path / "engines" / engine_name(builder.name, precision)
    folder.mkdir(parents=True, exist_ok=True)
    executes = isinstance(builder, OnnxRuntimeBuilder)
    engine = folder / ("model.onnx" if executes else "model.plan")
    profile = Profile.for_rows(artifact.config.max_rows)
    started = time.perf_counter()
    builder.build(graph, engine, profile)
    record = EngineRecord(
        backend=builder.name,
        version=builder.version,
        precision=precision,
        file=engine.name,
        bytes=engine.stat().st_size,
        profile=None if executes else profile,
        onnx_sha256=sha256(graph),
        executed=executes,
        max_abs_error=parity.max_abs_error if executes else None,
        graph_max_abs_error=parity.max_abs_error,
        build_seconds=round(time.perf_counter() - started, 3),
        note="executed and compared on this machine's CPU"
        if executes
        else "built, not executed: no GPU that can run it was used; validate it on its GPU",
    )
    record.save(folder)
    logger.info(
        "engine %s: %.1f MB in %.1f s, %s",
        folder.name,
        record.bytes / 1e6,
        record.build_seconds,
        f"max error {record.max_abs_error:.1e}" if executes else "not executed here",
    )
    return record


def _require(parity: Parity, what: str, precision: Precision) -> None:
    if precision == "fp32":
        parity.require(what, absolute=FP32_TOLERANCE)
    else:
        parity.require(what, share=TOLERANCE[precision])
