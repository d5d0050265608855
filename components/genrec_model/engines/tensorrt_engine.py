"""TensorRT engines.

Two builders with one API: ``tensorrt`` of a GPU image, and TensorRT-RTX, whose libraries build on
machines without a GPU. What is built is a real engine; it runs only where its GPU is.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from genrec_model.engines.base import EngineBuilder, Precision, Profile, Shape
from genrec_model.errors import EngineError, EngineUnavailable
from genrec_model.files import replacing

_HISTORY_INPUTS = ("items", "actions", "timestamps")


class TensorRTBuilder(EngineBuilder):
    """Builds with one of the two modules.

    Args:
        name: ``tensorrt`` or ``tensorrt-rtx``.
        module: the Python module to import for it.
    """

    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8", "fp8")

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self._module_name = module

    def _module(self) -> ModuleType:
        try:
            return importlib.import_module(self._module_name)
        except ImportError as error:
            raise EngineUnavailable(
                f"{self.name}: {self._module_name} is not installed ({error})"
            ) from error

    @property
    def version(self) -> str:
        """Version of the library."""
        return str(self._module().__version__)

    def unavailable(self) -> str | None:
        """The reason why it cannot build here, if there is one."""
        try:
            module = self._module()
            module.Builder(module.Logger(module.Logger.ERROR))
        except EngineUnavailable as error:
            return str(error)
        except (RuntimeError, TypeError) as error:  # the full TensorRT needs a driver to start
            return f"{self.name} cannot start here: {error}"
        return None

    def build(self, onnx: Path, engine: Path, profile: Profile) -> None:
        """Parse the graph as a strongly typed network and build it for the profile."""
        trt = self._module()
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(onnx)):
            reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            raise EngineError(f"{self.name} cannot parse {onnx}: {reasons}")
        config = builder.create_builder_config()
        ranges = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            ranges.set_shape(
                tensor.name,
                *(
                    _input_shape(tensor.name, shape)
                    for shape in (profile.smallest, profile.typical, profile.largest)
                ),
            )
        config.add_optimization_profile(ranges)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise EngineError(f"{self.name} cannot build {onnx}; its log above says why")
        with replacing(engine) as temporary:
            temporary.write_bytes(bytes(plan))


def _input_shape(name: str, shape: Shape) -> tuple[int, ...]:
    if name in _HISTORY_INPUTS:
        return shape.batch, shape.history
    return (shape.batch, shape.candidates) if name == "candidates" else (shape.batch,)
