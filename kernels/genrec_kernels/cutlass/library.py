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
from typing import Any, Generic, TypeVar, get_type_hints

import torch
from torch import Tensor

from genrec_kernels.cutlass.linear_variants import LinearVariant
from genrec_kernels.cutlass.packed_parameters import PackedParameters
from genrec_kernels.cutlass.parameters import Boxes, Parameter
from genrec_kernels.cutlass.variants import AttentionVariant, BiasTilesVariant

#: Where `build` puts kernels and wheels carry them.
FOLDER = Path(__file__).parent / "compiled"
#: What the driver calls a variant's elements; it has no name for e4m3, of which it copies bytes.
_DATA_TYPES = {"bf16": "BFLOAT16", "fp16": "FLOAT16", "fp8": "UINT8"}

#: Kinds of variants by their names in descriptions; one without a name is of attention.
_ATTENTION = "attention"
_KINDS: dict[str, type[AttentionVariant | BiasTilesVariant | LinearVariant]] = {
    _ATTENTION: AttentionVariant,
    "bias tiles": BiasTilesVariant,
    "linear": LinearVariant,
}
Variant = TypeVar("Variant", AttentionVariant, BiasTilesVariant, LinearVariant)

_log = logging.getLogger(__name__)


class LaunchFailed(RuntimeError):
    """The CUDA driver refused a kernel; the message has its reason."""


class OtherVersion(RuntimeError):
    """A compiled kernel is not of this version of the package."""


@dataclass(frozen=True, kw_only=True)
class CompiledKernel(Generic[Variant]):
    """A compiled variant's description, as in its .json file.

    Args:
        function: the kernel's name in the cubin.
        threads: of a block.
        shared_bytes: of a block, dynamic.
        software: what compiled it.
        cluster: blocks of a cluster.
        folder: where its files are.
    """

    variant: Variant
    function: str
    threads: int
    shared_bytes: int
    software: str
    cluster: int = 1
    folder: Path = FOLDER

    def write(self, cubin: bytes) -> None:
        """Add to its folder; the description last, so that a kernel with one is whole."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kind = next(name for name, known in _KINDS.items() if isinstance(self.variant, known))
        description = {"kind": kind} | {n: x for n, x in asdict(self).items() if n != "folder"}
        for path, data in (
            (self.folder / f"{self.variant.name}.cubin", cubin),
            (self.folder / f"{self.variant.name}.json", json.dumps(description, indent=1).encode()),
        ):
            new = path.with_suffix(path.suffix + ".new")
            new.write_bytes(data)
            new.replace(path)

    @classmethod
    def read(cls, path: Path) -> CompiledKernel[Any]:
        """From its .json file.

        Raises:
            OtherVersion: its kind or an option of its variant is not known to this version.
        """
        description = json.loads(path.read_text())
        try:
            kind = _KINDS[description.pop("kind", _ATTENTION)]
            variant = _read_options(kind, description.pop("variant"))
        except KeyError as unknown:
            raise OtherVersion(
                f"{path} was compiled by another version, which has {unknown}: make kernels"
            ) from unknown
        return cls(**description, variant=variant, folder=path.parent)


def _read_options(kind: type[Any], options: dict[str, Any]) -> Any:
    """A variant, or a part of one, from its fields.

    Raises:
        KeyError: there is another one, and it is not off: one that is changes nothing.
    """
    known: dict[str, Any] = get_type_hints(kind)
    found = {}
    for name, value in options.items():
        if name in known:
            nested = isinstance(value, dict)
            found[name] = _read_options(known[name], value) if nested else value
        elif value:
            raise KeyError(name)
    return kind(**found)


@cache
def compiled_kernels(folder: Path = FOLDER) -> dict[str, CompiledKernel[Any]]:
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
    kernel: CompiledKernel[Any], parameters: list[Parameter], *, blocks: int, device: torch.device
) -> None:
    """Run a kernel on the current stream of a device, which must be the current device.

    Raises:
        LaunchFailed: the driver refused.
    """
    driver = import_module("cuda.bindings.driver")
    packed = PackedParameters(parameters, partial(_descriptor, driver, kernel))
    function = _function(kernel, device.index or 0)
    stream = torch.cuda.current_stream(device).cuda_stream
    grid, block = (blocks, 1, 1), (kernel.threads, 1, 1)
    attributes = _attributes(driver, kernel.cluster)
    if not attributes:
        answer = driver.cuLaunchKernel(
            function, *grid, *block, kernel.shared_bytes, stream, packed.address, 0
        )
    else:
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = block
        config.sharedMemBytes, config.hStream = kernel.shared_bytes, stream
        config.attrs, config.numAttrs = attributes, len(attributes)
        answer = driver.cuLaunchKernelEx(config, function, packed.address, 0)
    _check(driver, answer, kernel)


@cache
def most_blocks(kernel: CompiledKernel[Any], device: torch.device) -> int:
    """Of a kernel of which a multiprocessor holds one block: so many of a GPU's run at once.

    Clusters may leave multiprocessors idle, as each is within a part of the GPU.
    """
    if kernel.cluster == 1:
        return torch.cuda.get_device_properties(device).multi_processor_count
    driver = import_module("cuda.bindings.driver")
    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = kernel.cluster, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = kernel.threads, 1, 1
    config.sharedMemBytes = kernel.shared_bytes
    attributes = _attributes(driver, kernel.cluster)
    config.attrs, config.numAttrs = attributes, len(attributes)
    function = _function(kernel, device.index or 0)
    clusters = _check(driver, driver.cuOccupancyMaxActiveClusters(function, config), kernel)
    return int(clusters) * kernel.cluster


def _attributes(driver: Any, cluster: int) -> list[Any]:
    """Of a launch."""
    if cluster == 1:
        return []
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    size = attribute.value.clusterDim
    size.x, size.y, size.z = cluster, 1, 1
    return [attribute]


def _descriptor(driver: Any, kernel: CompiledKernel[Any], boxes: Boxes) -> Any:
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
def _function(kernel: CompiledKernel[Any], device_index: int) -> Any:
    """A kernel's handle in a device's current context."""
    driver = import_module("cuda.bindings.driver")
    cubin = (kernel.folder / f"{kernel.variant.name}.cubin").read_bytes()
    module = _check(driver, driver.cuModuleLoadData(cubin), kernel)
    function = _check(driver, driver.cuModuleGetFunction(module, kernel.function.encode()), kernel)
    attribute = driver.CUfunction_attribute
    for name, value in (
        (attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared_bytes),
        (
            attribute.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
            100 if kernel.shared_bytes else 0,
        ),
    ):
        _check(driver, driver.cuFuncSetAttribute(function, name, value), kernel)
    _log.info("loaded %s on GPU %d", kernel.variant.name, device_index)
    return function


def _check(driver: Any, answer: tuple[Any, ...], kernel: CompiledKernel[Any]) -> Any:
    """A driver call's result."""
    status, *result = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        _, text = driver.cuGetErrorString(status)
        reason = text.decode() if text else str(status)
        raise LaunchFailed(f"{kernel.variant.name}: the CUDA driver refused: {reason}")
    return result[0] if result else None
