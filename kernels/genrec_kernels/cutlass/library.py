"""Kernels that were compiled ahead of time: what there is, and how it is launched.

Nothing here needs CuTe DSL or a compiler: a kernel is a cubin, which the CUDA driver loads.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genrec_kernels.cutlass.packed_parameters import PackedParameters
from genrec_kernels.cutlass.parameters import Boxes, Parameter
from genrec_kernels.cutlass.variants import AttentionVariant

#: Where `build` puts kernels and wheels carry them.
FOLDER = Path(__file__).parent / "compiled"
#: What the driver calls a variant's elements; it has no name for e4m3, of which it copies bytes.
_DATA_TYPES = {"bf16": "BFLOAT16", "fp16": "FLOAT16", "fp8": "UINT8"}

_log = logging.getLogger(__name__)


class LaunchFailed(RuntimeError):
    """The CUDA driver refused a kernel; the message has its reason."""


class OtherVersion(RuntimeError):
    """A compiled kernel is not of this version of the package."""


@dataclass(frozen=True, kw_only=True)
class CompiledKernel:
    """A compiled variant's description, as in its .json file.

    Args:
        function: the kernel's name in the cubin.
        threads: of a block.
        shared_bytes: of a block, dynamic.
        software: what compiled it.
        folder: where its files are.
    """

    variant: AttentionVariant
    function: str
    threads: int
    shared_bytes: int
    software: str
    folder: Path = FOLDER

    def write(self, cubin: bytes) -> None:
        """Add to its folder; the description last, so that a kernel with one is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {name: x for name, x in asdict(self).items() if name != "folder"}
        for path, data in (
            (self.folder / f"{self.variant.name}.cubin", cubin),
            (self.folder / f"{self.variant.name}.json", json.dumps(fields, indent=1).encode()),
        ):
            new = path.with_suffix(path.suffix + ".new")
            new.write_bytes(data)
            new.replace(path)

    @classmethod
    def read(cls, path: Path) -> CompiledKernel:
        """From its .json file.

        Raises:
            OtherVersion: its variant has an option that this version does not know.
        """
        fields = json.loads(path.read_text())
        options = fields["variant"]
        known = AttentionVariant.__dataclass_fields__
        foreign = [name for name in options if name not in known]
        # An option that is off changes nothing.
        if any(options[name] for name in foreign):
            raise OtherVersion(f"{path} was compiled by another version: make kernels")
        fields["variant"] = AttentionVariant(**{n: x for n, x in options.items() if n in known})
        return cls(**fields, folder=path.parent)


@cache
def compiled_kernels(folder: Path = FOLDER) -> dict[str, CompiledKernel]:
    """What was compiled for this version, by name."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            kernel = CompiledKernel.read(path)
        except OtherVersion as problem:
            _log.warning("%s", problem)
        else:
            found[kernel.variant.name] = kernel
    return found


def launch(
    kernel: CompiledKernel, parameters: list[Parameter], *, blocks: int, device: torch.device
) -> None:
    """Run a kernel on the current stream of a device, which must be the current device.

    Raises:
        LaunchFailed: the driver refused.
    """
    driver = import_module("cuda.bindings.driver")
    packed = PackedParameters(parameters, partial(_descriptor, driver, kernel))
    _check(
        driver,
        driver.cuLaunchKernel(
            _function(kernel, device.index or 0),
            *(blocks, 1, 1),
            *(kernel.threads, 1, 1),
            kernel.shared_bytes,
            torch.cuda.current_stream(device).cuda_stream,
            packed.address,
            0,
        ),
        kernel,
    )


def _descriptor(driver: Any, kernel: CompiledKernel, boxes: Boxes) -> Any:
    """A TMA descriptor (CUDA driver API, cuTensorMapEncodeTiled)."""
    x: Tensor = boxes.tensor
    size, rank = x.element_size(), x.dim()
    data_type = _DATA_TYPES[kernel.variant.element]
    return _check(
        driver,
        driver.cuTensorMapEncodeTiled(
            getattr(driver.CUtensorMapDataType, f"CU_TENSOR_MAP_DATA_TYPE_{data_type}"),
            rank,
            x.data_ptr(),
            [driver.cuuint64_t(n) for n in reversed(x.shape)],
            [driver.cuuint64_t(n * size) for n in reversed(x.stride()[:-1])],
            [driver.cuuint32_t(n) for n in (boxes.columns, boxes.rows, *[1] * (rank - 2))],
            [driver.cuuint32_t(1)] * rank,
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            getattr(driver.CUtensorMapSwizzle, f"CU_TENSOR_MAP_SWIZZLE_{boxes.span}B"),
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        ),
        kernel,
    )


@cache
def _function(kernel: CompiledKernel, device_index: int) -> Any:
    """A kernel's handle in a device's current context."""
    driver = import_module("cuda.bindings.driver")
    cubin = (kernel.folder / f"{kernel.variant.name}.cubin").read_bytes()
    module = _check(driver, driver.cuModuleLoadData(cubin), kernel)
    function = _check(driver, driver.cuModuleGetFunction(module, kernel.function.encode()), kernel)
    attribute = driver.CUfunction_attribute
    for name, value in (
        (attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared_bytes),
        (attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100),
    ):
        _check(driver, driver.cuFuncSetAttribute(function, name, value), kernel)
    _log.info("loaded %s on GPU %d", kernel.variant.name, device_index)
    return function


def _check(driver: Any, answer: tuple[Any, ...], kernel: CompiledKernel) -> Any:
    """A driver call's result."""
    status, *result = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        reason = text.decode() if text else str(status)
        raise LaunchFailed(f"{kernel.variant.name}: the CUDA driver refused: {reason}")
    return result[0] if result else None
