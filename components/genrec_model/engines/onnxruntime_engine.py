"""ONNX Runtime: the engine of the CPU, and the judge of every graph."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrec_model.engines.base import EngineBuilder, Precision, Profile
from genrec_model.errors import EngineError
from genrec_model.export.padded import INPUTS, OUTPUTS
from genrec_model.export.parity import Array, Runtime
from genrec_model.features.rows import Ints


class OnnxRuntimeBuilder(EngineBuilder):
    """Runs the graph as it is; "building" checks that it loads."""

    name = "onnxruntime"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    @property
    def version(self) -> str:
        """Version of ONNX Runtime."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def unavailable(self) -> str | None:
        """Always None: it is a dependency."""
        return None

    def build(self, onnx: Path, engine: Path, profile: Profile) -> None:  # noqa: ARG002
        """Copy the graph after loading it once; it takes any sizes."""
        load_onnx(onnx)
        shutil.copyfile(onnx, engine)


def load_onnx(path: Path, *, threads: int = 0) -> Runtime:
    """A graph as a callable.

    Args:
        path: ONNX file, as `export_onnx` wrote it.
        threads: of one call; 0 lets ONNX Runtime choose.

    Raises:
        EngineError: ONNX Runtime refuses the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A server's other threads need the cores more than a pool that waits for work.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        raise EngineError(f"{path}: ONNX Runtime refuses it: {error}") from error
    outputs: list[Any] = list(OUTPUTS)

    def run(inputs: Mapping[str, Ints]) -> tuple[Array, Array]:
        user, tasks = session.run(outputs, {name: inputs[name] for name in INPUTS})
        return user, tasks

    return run
